// The HTTP server: civetweb with handlers of our own. A slow or half-open client holds one of many
// workers for at most two seconds and never delays another.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "collectors/families.h"
#include "exporter/config.h"

namespace kmem {

// The server could not be started; what() is one line: which address, why, what to do.
class HttpError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class HttpServer {
 public:
  // Called on the server's worker threads, several at once.
  struct Handlers {
    std::function<Families()> scrape;
    std::function<std::string()> landing_page;  // HTML
    std::function<bool()> ready;
  };

  // Listens and serves from here on. Throws HttpError.
  HttpServer(const WebConfig& config, Handlers handlers);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  // Ends the running requests, joins the workers.
  ~HttpServer();

  // The addresses really bound, as host:port; shows the port chosen for port 0.
  [[nodiscard]] std::vector<std::string> addresses() const;

  // Requests answered so far by status code (kmem_exporter_http_requests_total).
  [[nodiscard]] std::map<int, std::uint64_t> requests() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kmem
