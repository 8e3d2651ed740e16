#include "exporter/http_server.h"

#include <civetweb.h>
#include <netdb.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <exception>
#include <mutex>
#include <stop_token>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "exporter/answer_pool.h"
#include "exporter/exposition.h"
#include "exporter/listen_address.h"

namespace kmem {
namespace {

using std::chrono::steady_clock;

// A connection holds a worker from its acceptance on, before it has said a word. With these beyond
// max_requests, that many idle, half-open or slow connections leave a worker for every scrape the
// limit allows. More of them only fill the queue for as long as the timeout lets them: two seconds.
constexpr int kSpareWorkers = 64;

constexpr const char* kRequestTimeoutMs = "2000";  // also for a write without progress
constexpr const char* kMaxRequestHeadBytes = "16384";

// civetweb's timeout begins anew whenever the client takes some bytes: the response goes out in
// pieces with a deadline on the whole, Prometheus's default scrape_timeout.
constexpr std::size_t kPieceBytes = std::size_t{16} * 1024;
constexpr auto kResponseTimeout = std::chrono::seconds(10);

constexpr std::string_view kPlainText = "text/plain; charset=utf-8";

// Has the acceptor wake up. Any failure is none: it only takes longer then.
void Knock(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* address = nullptr;
  const std::size_t brackets = host.starts_with('[') ? 1 : 0;
  const std::string bare = host.substr(brackets, host.size() - 2 * brackets);
  if (getaddrinfo(bare.c_str(), port.c_str(), &hints, &address) != 0) return;
  const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0) {
    static_cast<void>(connect(fd, address->ai_addr, address->ai_addrlen));
    close(fd);
  }
  freeaddrinfo(address);
}

class Library {
 public:
  Library() { mg_init_library(MG_FEATURES_DEFAULT); }  // without TLS
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() { mg_exit_library(); }
};

// The values of a header that may stand several times, joined as RFC 9110 has it.
std::string Header(const mg_connection* connection, const char* name) {
  const mg_request_info* request = mg_get_request_info(connection);
  std::string all;
  for (int i = 0; i < request->num_headers; ++i) {
    const mg_header& header = request->http_headers[i];
    if (strcasecmp(header.name, name) != 0) continue;
    if (!all.empty()) all += ", ";
    all += header.value;
  }
  return all;
}

bool HasMethod(const mg_connection* connection, std::string_view method) {
  const mg_request_info* request = mg_get_request_info(connection);
  return request != nullptr && request->request_method != nullptr &&
         method == request->request_method;
}

struct Response {
  int status = 200;
  std::string_view content_type = kPlainText;
  std::string body = {};
  std::string_view more_headers = {};          // each with its CRLF
  AnswerPool::Handle scraped = {nullptr, {}};  // if there is one, `scraped_body` is the body
  std::string_view scraped_body = {};

  [[nodiscard]] std::string_view whole_body() const { return scraped ? scraped_body : body; }
};

std::string Date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 64> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &utc)};
}

// Every response closes its connection: an idle one would hold a worker, and a request's body need
// not be read.
std::string Head(const mg_connection* connection, const Response& response) {
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " ";
  head += mg_get_response_code_text(connection, response.status);
  head.append("\r\nDate: ").append(Date());
  head.append("\r\nContent-Type: ").append(response.content_type);
  head.append("\r\nContent-Length: ").append(std::to_string(response.whole_body().size()));
  head.append("\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n");
  head.append(response.more_headers).append("\r\n");
  return head;
}

// Whether all of it could be sent in time.
bool SendPieces(mg_connection* connection, std::string_view rest,
                steady_clock::time_point deadline) {
  while (!rest.empty()) {
    if (steady_clock::now() >= deadline) return false;
    const std::string_view piece = rest.substr(0, kPieceBytes);
    const int sent = mg_write(connection, piece.data(), piece.size());
    if (sent != static_cast<int>(piece.size())) return false;
    rest.remove_prefix(piece.size());
  }
  return true;
}

// A client that goes away or is too slow gets no more: nothing to do about it. The head and the
// first piece go together: a short response is one packet.
void Send(mg_connection* connection, const Response& response) {
  std::string first = Head(connection, response);
  std::string_view rest =
      HasMethod(connection, "HEAD") ? std::string_view() : response.whole_body();
  const std::size_t along =
      std::min(rest.size(), kPieceBytes - std::min(kPieceBytes, first.size()));
  first += rest.substr(0, along);
  rest.remove_prefix(along);
  const auto deadline = steady_clock::now() + kResponseTimeout;
  if (SendPieces(connection, first, deadline)) SendPieces(connection, rest, deadline);
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const WebConfig& config, Handlers handlers);
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl();

  [[nodiscard]] std::vector<std::string> addresses() const;
  [[nodiscard]] std::map<int, std::uint64_t> requests() const;

 private:
  struct Bound {
    std::string host;
    std::string port;
  };

  // civetweb's callbacks. C calls them: they let no exception out.
  static int OnRequest(mg_connection* connection) noexcept;
  static int OnError(mg_connection* connection, int status, const char* message) noexcept;
  static int OnLog(const mg_connection* connection, const char* message) noexcept;
  static Impl& Of(const mg_connection* connection);

  void Start(const std::vector<ListenAddress>& endpoints);
  [[nodiscard]] std::string first_log_line() const;
  Response Respond(const mg_connection* connection);
  Response Route(const mg_connection* connection);
  Response Scrape(const mg_connection* connection);
  void Count(int status);

  const Library library_;
  const Handlers handlers_;
  const std::string telemetry_path_;
  const int max_requests_;
  std::atomic<int> scrapes_in_flight_ = 0;

  mutable std::mutex mutex_;  // of the next two
  std::map<int, std::uint64_t> requests_{{200, 0}, {400, 0}, {404, 0},
                                         {405, 0}, {500, 0}, {503, 0}};
  std::string first_log_line_;

  AnswerPool answers_;
  std::vector<Bound> bound_;
  mg_context* context_ = nullptr;
};

HttpServer::Impl::Impl(const WebConfig& config, Handlers handlers)
    : handlers_(std::move(handlers)),
      telemetry_path_(config.telemetry_path),
      max_requests_(config.max_requests) {
  if (config.listen_addresses.empty()) {
    throw HttpError("there is no listen address; give at least one, such as :15636");
  }
  const bool have_ipv6 = HaveIpv6();
  std::vector<ListenAddress> endpoints;
  for (const std::string& address : config.listen_addresses) {
    endpoints.push_back(ParseListenAddress(address, have_ipv6));
  }
  Start(endpoints);
}

void HttpServer::Impl::Start(const std::vector<ListenAddress>& endpoints) {
  std::string specs;
  for (const ListenAddress& endpoint : endpoints) {
    specs += specs.empty() ? "" : ",";
    specs += endpoint.spec;
  }
  const std::string threads = std::to_string(max_requests_ + kSpareWorkers);
  // No document_root: nothing of the file system can be reached, and OnRequest answers everything
  // before civetweb would look there, for CGI, for WebDAV or for a websocket.
  const std::vector<std::pair<const char*, const char*>> settings{
      {"listening_ports", specs.c_str()},
      {"num_threads", threads.c_str()},
      {"request_timeout_ms", kRequestTimeoutMs},
      {"max_request_size", kMaxRequestHeadBytes},
      {"enable_keep_alive", "no"},
      {"enable_directory_listing", "no"},
      {"enable_auth_domain_check", "no"},
      {"tcp_nodelay", "1"},
  };
  std::vector<const char*> options;
  for (const auto& [name, value] : settings) options.insert(options.end(), {name, value});
  options.push_back(nullptr);
  mg_callbacks callbacks{};
  callbacks.begin_request = &OnRequest;
  callbacks.http_error = &OnError;
  callbacks.log_message = &OnLog;
  context_ = mg_start(&callbacks, this, options.data());
  const std::string problem = first_log_line();
  // civetweb goes on with fewer workers than asked for, which would break the promise above.
  if (problem.starts_with("Cannot start worker")) mg_stop(std::exchange(context_, nullptr));
  if (context_ == nullptr) RefuseStart(endpoints, problem);

  std::vector<mg_server_port> ports(endpoints.size());
  mg_get_server_ports(context_, static_cast<int>(ports.size()), ports.data());
  for (std::size_t i = 0; i < ports.size(); ++i) {
    bound_.push_back({endpoints[i].host, std::to_string(ports[i].port)});
  }
}

HttpServer::Impl::~Impl() {
  // civetweb's acceptor looks at its stop flag when a connection comes, or every two seconds.
  std::jthread knocker;
  try {
    knocker = std::jthread([this](const std::stop_token& stopped) {
      while (!stopped.stop_requested()) {
        Knock(bound_.front().host, bound_.front().port);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    });
  } catch (const std::system_error&) {  // no thread to be had: it takes the two seconds
  }
  mg_stop(context_);
}

std::vector<std::string> HttpServer::Impl::addresses() const {
  std::vector<std::string> all;
  for (const Bound& bound : bound_) all.push_back(bound.host + ":" + bound.port);
  return all;
}

std::map<int, std::uint64_t> HttpServer::Impl::requests() const {
  const std::scoped_lock lock(mutex_);
  return requests_;
}

std::string HttpServer::Impl::first_log_line() const {
  const std::scoped_lock lock(mutex_);
  return first_log_line_;
}

void HttpServer::Impl::Count(int status) {
  const std::scoped_lock lock(mutex_);
  ++requests_[status];
}

HttpServer::Impl& HttpServer::Impl::Of(const mg_connection* connection) {
  return *static_cast<Impl*>(mg_get_user_data(mg_get_context(connection)));
}

int HttpServer::Impl::OnRequest(mg_connection* connection) noexcept {
  // Before anything else: otherwise civetweb reads the request's body to its end, however slowly
  // that comes.
  mg_disable_connection_keep_alive(connection);
  Impl& self = Of(connection);
  int status = 500;
  try {
    const Response response = self.Respond(connection);
    status = response.status;
    self.Count(status);
    Send(connection, response);
  } catch (...) {  // no memory even for a response: the client sees the connection close
  }
  return status;
}

// civetweb refuses what it cannot parse or what came too slowly or was too long (all of them 400
// but for a few) before OnRequest; it would send no Content-Length.
int HttpServer::Impl::OnError(mg_connection* connection, int status, const char* message) noexcept {
  try {
    mg_disable_connection_keep_alive(connection);
    Of(connection).Count(status);
    Send(connection, {.status = status, .body = std::string(message) + "\n"});
  } catch (...) {  // as in OnRequest
  }
  return 0;
}

// The first line says why the start failed. Later ones are about clients: they stay out of the log.
int HttpServer::Impl::OnLog(const mg_connection* connection, const char* message) noexcept {
  try {
    Impl& self = Of(connection);
    const std::scoped_lock lock(self.mutex_);
    if (self.first_log_line_.empty()) self.first_log_line_ = message;
  } catch (...) {  // then the error has no reason
  }
  return 1;
}

Response HttpServer::Impl::Respond(const mg_connection* connection) {
  try {
    return Route(connection);
  } catch (const std::exception& error) {
    return {.status = 500, .body = std::string("internal error: ") + error.what() + "\n"};
  } catch (...) {
    return {.status = 500, .body = "internal error\n"};
  }
}

Response HttpServer::Impl::Route(const mg_connection* connection) {
  if (!HasMethod(connection, "GET") && !HasMethod(connection, "HEAD")) {
    return {.status = 405,
            .body = "only GET and HEAD are allowed\n",
            .more_headers = "Allow: GET, HEAD\r\n"};
  }
  const std::string_view path = mg_get_request_info(connection)->local_uri;
  if (path == telemetry_path_) return Scrape(connection);
  if (path == "/") {
    return {.content_type = "text/html; charset=utf-8", .body = handlers_.landing_page()};
  }
  if (path == "/-/healthy") return {.body = "healthy\n"};
  if (path == "/-/ready") {
    if (handlers_.ready()) return {.body = "ready\n"};
    return {.status = 503, .body = "not ready\n"};
  }
  return {.status = 404, .body = "not found; the metrics are at " + telemetry_path_ + "\n"};
}

Response HttpServer::Impl::Scrape(const mg_connection* connection) {
  // A slow reader does not count: it costs a worker, not a scrape's work.
  struct Place {
    std::atomic<int>& taken;
    const int before = taken.fetch_add(1);
    ~Place() { taken.fetch_sub(1); }
  };
  const Place place{scrapes_in_flight_};
  if (place.before >= max_requests_) {
    return {
        .status = 503, .body = "too many scrapes at once\n", .more_headers = "Retry-After: 1\r\n"};
  }
  const TextFormat format = NegotiateFormat(Header(connection, "Accept"));
  Response response{.content_type = ContentType(format), .scraped = answers_.Take()};
  Answer& answer = *response.scraped;
  SerializeTo(answer.text, handlers_.scrape(), format);
  response.scraped_body = answer.text;
  if (AcceptsGzip(Header(connection, "Accept-Encoding"))) {
    answer.gzip.CompressTo(answer.packed, answer.text);
    response.scraped_body = answer.packed;
    response.more_headers = "Content-Encoding: gzip\r\n";
  }
  return response;
}

HttpServer::HttpServer(const WebConfig& config, Handlers handlers)
    : impl_(std::make_unique<Impl>(config, std::move(handlers))) {}

HttpServer::~HttpServer() = default;

std::vector<std::string> HttpServer::addresses() const { return impl_->addresses(); }

std::map<int, std::uint64_t> HttpServer::requests() const { return impl_->requests(); }

}  // namespace kmem
