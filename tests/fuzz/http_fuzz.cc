// Any bytes as a request, sent to the real server over a socket; and as the headers that are
// parsed here.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "exporter/exposition.h"
#include "exporter/http_server.h"

namespace {

kmem::WebConfig Config() {
  kmem::WebConfig config;
  config.listen_addresses = {"127.0.0.1:0"};
  config.max_requests = 4;
  return config;
}

std::uint16_t PortOf(const kmem::HttpServer& server) {
  const std::string address = server.addresses().at(0);
  return static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
}

// Sends the bytes, says that no more will come, and reads until the server hangs up.
void Request(std::uint16_t port, std::string_view bytes) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  // From a new address each time: thousands of connections a second use up the ports of one.
  static std::uint32_t requests = 0;
  sockaddr_in from{};
  from.sin_family = AF_INET;
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + requests++ % 0xFFFFF0);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0) std::abort();
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) std::abort();
  static_cast<void>(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL));
  shutdown(fd, SHUT_WR);
  std::array<char, 4096> answer;
  while (recv(fd, answer.data(), answer.size(), 0) > 0) {
  }
  close(fd);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const kmem::HttpServer server(Config(),
                                       {.scrape = [] { return kmem::Families{}; },
                                        .landing_page = [] { return std::string("page"); },
                                        .ready = [] { return true; }});
  static const std::uint16_t port = PortOf(server);
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  static_cast<void>(kmem::NegotiateFormat(bytes));
  static_cast<void>(kmem::AcceptsGzip(bytes));
  Request(port, bytes);
  return 0;
}
