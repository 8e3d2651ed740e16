// Addresses to listen on, from the configuration's words to civetweb's. Any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kmem {

struct ListenAddress {
  std::string configured;  // HOST:PORT, :PORT or [IPV6]:PORT, as in the configuration
  std::string host;        // numeric, an IPv6 one in brackets
  std::string spec;        // in civetweb's words: host and port, or +port for both families
};

// Whether the library and the kernel can: ipv6.disable=1 leaves a kernel without such sockets.
bool HaveIpv6();

// Understands and resolves one address. Throws HttpError.
ListenAddress ParseListenAddress(const std::string& address, bool have_ipv6);

// Throws the HttpError for a failed start out of civetweb's message, which reads
// `cannot bind to SPEC: ERRNO (its text)` where an address was at fault.
[[noreturn]] void RefuseStart(const std::vector<ListenAddress>& addresses,
                              const std::string& message);

}  // namespace kmem
