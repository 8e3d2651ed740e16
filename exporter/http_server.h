// The HTTP server: civetweb with handlers of our own. A half-open client, or one that does not take
// its response, holds one of many workers for two seconds, one that sends or takes it byte by byte
// for a few; none delays another.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
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

// One server at a time. From its start on the process ignores SIGPIPE, by civetweb's doing.
class HttpServer {
 public:
  // Called on the server's worker threads, several at once. Debian's civetweb gives them 100 KiB
  // of stack; at least 64 KiB are left here: no large local buffers. An exception is answered with
  // 500.
  struct Handlers {
    std::function<Families()> scrape;           // at most max_requests at once
    std::function<std::string()> landing_page;  // HTML
    std::function<bool()> ready;
  };

  // Listens and serves from here on. Throws HttpError.
  HttpServer(const WebConfig& config, Handlers handlers);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  // Ends the running requests, joins the workers: at once, or within two seconds where clients are
  // connected without having sent a request.
  ~HttpServer();

  // The addresses really bound, as host:port, hosts resolved; shows the port chosen for port 0.
  [[nodiscard]] std::vector<std::string> addresses() const;

  // Requests answered so far by status code (kmem_exporter_http_requests_total), civetweb's own
  // refusals included; the usual codes are there from the start.
  [[nodiscard]] std::map<int, std::uint64_t> requests() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kmem
