#include "exporter/listen_address.h"

#include <civetweb.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <system_error>

#include "exporter/http_server.h"

namespace kmem {
namespace {

[[noreturn]] void Refuse(const std::string& address, const std::string& why) {
  throw HttpError("listen address \"" + address + "\": " + why);
}

std::string ParsePort(const std::string& address, std::string_view text) {
  const std::string_view digits = text.substr(0, text.find_first_not_of("0123456789"));
  const std::string_view suffix = text.substr(digits.size());
  if (!digits.empty() && (suffix == "s" || suffix == "r")) {
    Refuse(address, "TLS is not available; leave out the \"" + std::string(suffix) +
                        "\" and put a proxy that speaks TLS in front");
  }
  unsigned port = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, port);
  if (text.empty() || stop != end || error != std::errc() || port > 65535) {
    Refuse(address, "the port must be a number from 0 to 65535");
  }
  return std::to_string(port);
}

// The numeric form of `host`; IPv4 is preferred where a name has both.
std::string Resolve(const std::string& address, const std::string& host, int family) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) {
    const char* why = error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error);
    Refuse(address, "cannot resolve the host (" + std::string(why) +
                        "); give an address of this machine, or :PORT for all");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  const addrinfo* best = found;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (best->ai_family != AF_INET && each->ai_family == AF_INET) best = each;
  }
  std::array<char, NI_MAXHOST> text{};
  if (getnameinfo(best->ai_addr, best->ai_addrlen, text.data(), text.size(), nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    Refuse(address, "cannot resolve the host; give an address of this machine, or :PORT for all");
  }
  const std::string numeric = text.data();
  return best->ai_family == AF_INET6 ? "[" + numeric + "]" : numeric;
}

std::string Advice(int error) {
  switch (error) {
    case EADDRINUSE:
      return "stop what listens there (a second copy?) or choose another port";
    case EACCES:
      return "ports below 1024 need CAP_NET_BIND_SERVICE, or choose another port";
    case EADDRNOTAVAIL:
      return "give an address of this machine, or :PORT for all";
    default:
      return "choose another address";
  }
}

}  // namespace

bool HaveIpv6() {
  if (mg_check_feature(MG_FEATURES_IPV6) == 0) return false;
  const int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe >= 0) close(probe);
  return probe >= 0;
}

ListenAddress ParseListenAddress(const std::string& address, bool have_ipv6) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon < address.rfind(']') + 1) {
    Refuse(address, "there is no port; write HOST:PORT, :PORT or [IPV6]:PORT");
  }
  const std::string port = ParsePort(address, std::string_view(address).substr(colon + 1));
  std::string host = address.substr(0, colon);
  if (host.empty()) {
    return have_ipv6 ? ListenAddress{address, "[::]", "+" + port}
                     : ListenAddress{address, "0.0.0.0", "0.0.0.0:" + port};
  }
  int family = have_ipv6 ? AF_UNSPEC : AF_INET;
  if (host.front() == '[' && host.back() == ']') {
    if (!have_ipv6) Refuse(address, "there is no IPv6 here; give an IPv4 address, or :PORT");
    host = host.substr(1, host.size() - 2);
    family = AF_INET6;
  }
  if (family != AF_INET6 && host.find(':') != std::string::npos) {
    Refuse(address, "an IPv6 address goes in brackets: [ADDRESS]:PORT");
  }
  if (host.empty()) Refuse(address, "write HOST:PORT, :PORT or [IPV6]:PORT");
  host = Resolve(address, host, family);
  return {address, host, host + ":" + port};
}

void RefuseStart(const std::vector<ListenAddress>& addresses, const std::string& message) {
  for (const ListenAddress& address : addresses) {
    const std::string key = " " + address.spec + ": ";
    const std::size_t found = message.find(key);
    if (found == std::string::npos) continue;
    int error = 0;
    std::from_chars(message.data() + found + key.size(), message.data() + message.size(), error);
    Refuse(address.configured,
           "cannot listen: " + std::string(strerror(error)) + "; " + Advice(error));
  }
  throw HttpError(
      "the HTTP server does not start: " + (message.empty() ? "unknown reason" : message) +
      "; check the limits of memory, threads and open files");
}

}  // namespace kmem
