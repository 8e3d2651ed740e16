#include "exporter/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <latch>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace kmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

struct Response {
  int status = 0;    // 0: none came
  std::string head;  // without the Date, which differs between two of them
  std::string body;

  [[nodiscard]] std::string header(const std::string& name) const {
    const std::size_t begin = head.find("\r\n" + name + ": ");
    if (begin == std::string::npos) return {};
    const std::size_t value = begin + name.size() + 4;
    return head.substr(value, head.find("\r\n", value) - value);
  }
};

Response Parse(const std::string& text) {
  Response response;
  const std::size_t end = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.1 ") || end == std::string::npos) return response;
  response.status = std::stoi(text.substr(9, 3));
  response.head = text.substr(0, end + 2);
  const std::size_t date = response.head.find("\r\nDate: ");
  if (date != std::string::npos) {
    response.head.erase(date, response.head.find("\r\n", date + 2) - date);
  }
  response.body = text.substr(end + 4);
  return response;
}

// A connection to 127.0.0.1.
class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  Client& operator=(Client&&) = delete;
  ~Client() {
    if (fd_ >= 0) close(fd_);
  }

  // False where the server has closed the connection.
  bool Send(std::string_view text) const {
    return send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }

  // What comes until the server closes, nothing comes for 10 s, or `limit` bytes are there.
  [[nodiscard]] std::string Read(std::size_t limit = std::string::npos) const {
    std::string text;
    std::array<char, 65536> buffer;
    pollfd wait{fd_, POLLIN, 0};
    while (text.size() < limit && poll(&wait, 1, 10000) > 0) {
      const ssize_t got = recv(fd_, buffer.data(), std::min(buffer.size(), limit - text.size()), 0);
      if (got <= 0) break;
      text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return text;
  }

  // Whether the server closes within the time, or sends something.
  [[nodiscard]] bool Stirs(milliseconds within) const {
    pollfd wait{fd_, POLLIN, 0};
    return poll(&wait, 1, static_cast<int>(within.count())) > 0;
  }

 private:
  int fd_;
};

// Until `done`, at most `limit`. Returns how long it took.
milliseconds WaitUntil(const std::function<bool()>& done, milliseconds limit) {
  const auto start = steady_clock::now();
  while (!done() && steady_clock::now() - start < limit) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  return std::chrono::duration_cast<milliseconds>(steady_clock::now() - start);
}

milliseconds Took(const std::function<void()>& action) {
  const auto start = steady_clock::now();
  action();
  return std::chrono::duration_cast<milliseconds>(steady_clock::now() - start);
}

std::size_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

Families OneGauge(double value = 1, std::string_view label = "x") {
  Families families;
  FamilyBuilder(families, FamilyBuilder::Type::Gauge, "kmem_g", "Help.").Add({{"l", label}}, value);
  return families;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Start() {
    server_.reset();  // before another is started
    server_.emplace(config_, handlers_);
    const std::string address = server_->addresses().at(0);
    port_ = std::stoi(address.substr(address.rfind(':') + 1));
  }

  [[nodiscard]] Client Connect() const { return Client(port_); }

  [[nodiscard]] Response Request(const std::string& method, const std::string& target,
                                 const std::string& headers = "") const {
    const Client client = Connect();
    client.Send(method + " " + target + " HTTP/1.1\r\nHost: h\r\n" + headers + "\r\n");
    return Parse(client.Read());
  }

  [[nodiscard]] Response Get(const std::string& target, const std::string& headers = "") const {
    return Request("GET", target, headers);
  }

  [[nodiscard]] static std::string StartError(std::vector<std::string> addresses) {
    WebConfig config;
    config.listen_addresses = std::move(addresses);
    try {
      const HttpServer server(config, {});
    } catch (const HttpError& error) {
      return error.what();
    }
    return "it started";
  }

  WebConfig config_{.listen_addresses = {"127.0.0.1:0"}};
  HttpServer::Handlers handlers_{.scrape = [] { return OneGauge(); },
                                 .landing_page = [] { return std::string("<p>Hello</p>"); },
                                 .ready = [] { return true; }};
  int port_ = 0;
  std::optional<HttpServer> server_;
};

// ---- What is served ----

TEST_F(HttpServerTest, ServesMetricsAtTheTelemetryPath) {
  config_.telemetry_path = "/kmem/metrics";
  Start();
  const Response response = Get("/kmem/metrics?x=y");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(response.header("Content-Length"), std::to_string(response.body.size()));
  EXPECT_EQ(response.header("X-Content-Type-Options"), "nosniff");
  EXPECT_EQ(response.header("Connection"), "close");
  EXPECT_EQ(response.body, "# HELP kmem_g Help.\n# TYPE kmem_g gauge\nkmem_g{l=\"x\"} 1\n");
  EXPECT_EQ(Get("/metrics").status, 404);
}

TEST_F(HttpServerTest, ServesOpenMetricsToWhoAsks) {
  Start();
  for (const char* accept :
       {"Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n",
        "Accept: text/plain;q=0.1\r\naccept: application/openmetrics-text\r\n"}) {
    const Response response = Get("/metrics", accept);
    EXPECT_EQ(response.header("Content-Type"),
              "application/openmetrics-text; version=1.0.0; charset=utf-8");
    EXPECT_TRUE(response.body.ends_with("\n# EOF\n"));
  }
}

TEST_F(HttpServerTest, CompressesForWhoAsks) {
  handlers_.scrape = [] { return OneGauge(1, std::string(100000, 'x')); };
  Start();
  const Response plain = Get("/metrics", "Accept-Encoding: gzip;q=0\r\n");
  const Response packed = Get("/metrics", "Accept-Encoding: gzip\r\n");
  EXPECT_EQ(plain.header("Content-Encoding"), "");
  EXPECT_EQ(packed.header("Content-Encoding"), "gzip");
  EXPECT_EQ(packed.header("Content-Length"), std::to_string(packed.body.size()));
  EXPECT_LT(packed.body.size(), 10000U);

  std::string text(plain.body.size() + 1, '\0');
  z_stream stream{};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.body.data()));
  stream.avail_in = static_cast<uInt>(packed.body.size());
  stream.next_out = reinterpret_cast<Bytef*>(text.data());
  stream.avail_out = static_cast<uInt>(text.size());
  ASSERT_EQ(inflateInit2(&stream, 15 + 16), Z_OK);
  EXPECT_EQ(inflate(&stream, Z_FINISH), Z_STREAM_END);
  text.resize(stream.total_out);
  inflateEnd(&stream);
  EXPECT_EQ(text, plain.body);
}

TEST_F(HttpServerTest, ServesLandingPageAndHealth) {
  std::atomic<bool> ready = false;
  handlers_.ready = [&ready] { return ready.load(); };
  Start();
  EXPECT_EQ(Get("/").header("Content-Type"), "text/html; charset=utf-8");
  EXPECT_EQ(Get("/").body, "<p>Hello</p>");
  EXPECT_EQ(Get("/-/healthy").status, 200);
  EXPECT_EQ(Get("/-/healthy").body, "healthy\n");
  EXPECT_EQ(Get("/-/ready").status, 503);
  EXPECT_EQ(Get("/-/ready").body, "not ready\n");
  ready = true;
  EXPECT_EQ(Get("/-/ready").status, 200);
}

TEST_F(HttpServerTest, AnswersHeadLikeGetWithoutBody) {
  Start();
  for (const char* target : {"/metrics", "/", "/-/healthy", "/nowhere"}) {
    const Response get = Get(target);
    const Response head = Request("HEAD", target);
    EXPECT_EQ(head.head, get.head);
    EXPECT_THAT(get.body, Not(IsEmpty()));
    EXPECT_THAT(head.body, IsEmpty());
  }
}

TEST_F(HttpServerTest, AllowsNoOtherMethods) {
  Start();
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "CONNECT"}) {
    const Response response =
        Request(method, "/metrics", "Origin: http://o\r\nAccess-Control-Request-Method: GET\r\n");
    EXPECT_EQ(response.status, 405) << method;
    EXPECT_EQ(response.header("Allow"), "GET, HEAD");
    EXPECT_EQ(response.header("Content-Length"), std::to_string(response.body.size()));
  }
}

TEST_F(HttpServerTest, HasNothingElse) {
  Start();
  for (const char* target : {"/metrics/", "/metrics2", "/etc/passwd", "/../../etc/passwd",
                             "/%2e%2e/%2e%2e/etc/passwd", "/x.cgi", "/-/"}) {
    EXPECT_EQ(Get(target).status, 404) << target;
  }
  EXPECT_EQ(Get("/metrics", "Connection: Upgrade\r\nUpgrade: websocket\r\n").status, 200);
}

TEST_F(HttpServerTest, AnswersAnExceptionWith500) {
  handlers_.scrape = []() -> Families { throw std::runtime_error("no luck"); };
  handlers_.landing_page = []() -> std::string { throw 1; };
  Start();
  EXPECT_EQ(Get("/metrics").body, "internal error: no luck\n");
  EXPECT_EQ(Get("/").status, 500);
  EXPECT_EQ(Get("/-/healthy").status, 200);
  EXPECT_EQ(server_->requests().at(500), 2U);
}

TEST_F(HttpServerTest, CountsResponsesByStatus) {
  Start();
  using Counts = std::map<int, std::uint64_t>;
  EXPECT_EQ(server_->requests(),
            (Counts{{200, 0}, {400, 0}, {404, 0}, {405, 0}, {500, 0}, {503, 0}}));
  EXPECT_EQ(Get("/metrics").status, 200);
  EXPECT_EQ(Request("HEAD", "/").status, 200);
  EXPECT_EQ(Get("/nowhere").status, 404);
  EXPECT_EQ(Request("POST", "/").status, 405);
  const Client garbage = Connect();
  garbage.Send("garbage\r\n\r\n");
  const Response refusal = Parse(garbage.Read());
  EXPECT_EQ(refusal.status, 400);
  EXPECT_EQ(refusal.header("Content-Length"), std::to_string(refusal.body.size()));
  EXPECT_EQ(server_->requests(),
            (Counts{{200, 2}, {400, 1}, {404, 1}, {405, 1}, {500, 0}, {503, 0}}));
}

TEST_F(HttpServerTest, LeavesHandlersTheStackItPromises) {
  std::atomic<std::size_t> left = 0;
  handlers_.scrape = [&left] {
    pthread_attr_t attributes;
    void* lowest = nullptr;
    std::size_t bytes = 0;
    std::size_t guard = 0;
    EXPECT_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
    EXPECT_EQ(pthread_attr_getstack(&attributes, &lowest, &bytes), 0);
    EXPECT_EQ(pthread_attr_getguardsize(&attributes, &guard), 0);
    pthread_attr_destroy(&attributes);
    const auto* here = static_cast<const char*>(__builtin_frame_address(0));
    left = static_cast<std::size_t>(here - static_cast<const char*>(lowest)) - guard;
    return OneGauge();
  };
  Start();
  EXPECT_EQ(Get("/metrics").status, 200);
  EXPECT_GE(left, std::size_t{64} * 1024);
  RecordProperty("stack_bytes_left", std::to_string(left));
}

// ---- Load and bad clients ----

TEST_F(HttpServerTest, RefusesScrapesOverTheLimit) {
  config_.max_requests = 2;
  std::latch running(2);
  std::latch go(1);
  std::atomic<int> calls = 0;
  handlers_.scrape = [&] {
    if (++calls <= 2) {
      running.count_down();
      go.wait();
    }
    return OneGauge();
  };
  Start();
  auto first = std::async(std::launch::async, [this] { return Get("/metrics"); });
  auto second = std::async(std::launch::async, [this] { return Get("/metrics"); });
  running.wait();
  const Response refused = Get("/metrics");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.header("Retry-After"), "1");
  EXPECT_EQ(Get("/-/healthy").status, 200);
  go.count_down();
  EXPECT_EQ(first.get().status, 200);
  EXPECT_EQ(second.get().status, 200);
  EXPECT_EQ(Get("/metrics").status, 200);
  EXPECT_EQ(calls, 3);
}

TEST_F(HttpServerTest, IdleConnectionsDoNotDelayAScrape) {
  config_.max_requests = 1;
  Start();
  std::vector<Client> idle;
  for (int i = 0; i < 50; ++i) idle.push_back(Connect());
  milliseconds best(10000);  // of three: the machine may be busy, the server may not
  for (int i = 0; i < 3; ++i) {
    best = std::min(best, Took([this] { EXPECT_EQ(Get("/metrics").status, 200); }));
  }
  EXPECT_LT(best, milliseconds(100));
  EXPECT_FALSE(idle.front().Stirs(milliseconds(0))) << "they were not idle any more";
}

TEST_F(HttpServerTest, DropsClientsThatDoNotFinishTheirRequest) {
  Start();
  const auto start = steady_clock::now();
  const Client silent = Connect();
  const Client half = Connect();
  half.Send("GET /metrics HTTP/1.1\r\nHost: ");
  const Client dripping = Connect();
  const std::jthread drip([&dripping](const std::stop_token& stop) {
    while (!stop.stop_requested() && dripping.Send("G")) {
      std::this_thread::sleep_for(milliseconds(50));
    }
  });
  for (const Client* client : {&silent, &half, &dripping}) {
    EXPECT_TRUE(client->Stirs(milliseconds(6000)));
    const auto after = steady_clock::now() - start;
    EXPECT_GT(after, milliseconds(1900));
    EXPECT_LT(after, milliseconds(3500));
  }
  EXPECT_THAT(silent.Read(), IsEmpty());
  EXPECT_EQ(Parse(half.Read()).status, 400);
  EXPECT_EQ(Get("/metrics").status, 200);
}

TEST_F(HttpServerTest, DropsAClientThatDoesNotReadItsResponse) {
  constexpr std::size_t kBytes = std::size_t{16} << 20;  // more than the kernel buffers
  handlers_.scrape = [] { return OneGauge(1, std::string(kBytes, 'x')); };
  Start();
  const Client slow(port_, 4096);
  slow.Send("GET /metrics HTTP/1.1\r\n\r\n");
  ASSERT_THAT(slow.Read(9), "HTTP/1.1 ");
  const std::size_t open = OpenDescriptors();
  EXPECT_LT(Took([this] { EXPECT_EQ(Get("/-/healthy").status, 200); }), milliseconds(1000));
  const milliseconds took =
      WaitUntil([open] { return OpenDescriptors() < open; }, milliseconds(20000));
  EXPECT_GT(took, milliseconds(1000));
  EXPECT_LT(took, milliseconds(6000));
}

TEST_F(HttpServerTest, DoesNotWaitForARequestBody) {
  Start();
  for (const char* headers : {"Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n",
                              "Content-Length: 9\r\nExpect: 100-continue\r\n"}) {
    const milliseconds took = Took([&] {
      EXPECT_EQ(Get("/metrics", headers).status, 200);
      EXPECT_EQ(Request("POST", "/metrics", headers).status, 405);
    });
    EXPECT_LT(took, milliseconds(1000)) << headers;
  }
  EXPECT_EQ(Get("/metrics", "Content-Length: 5\r\n\r\nhello").status, 200);
}

TEST_F(HttpServerTest, RefusesAnOverlongHead) {
  Start();
  EXPECT_EQ(Get("/metrics", "X: " + std::string(12 * 1024, 'x') + "\r\n").status, 200);
  for (const std::size_t bytes : {std::size_t{17} * 1024, std::size_t{1} << 20}) {
    const Client client = Connect();
    client.Send("GET /metrics HTTP/1.1\r\nX: " + std::string(bytes, 'x') + "\r\n\r\n");
    // The rest of the head may have reset the connection before the response was read.
    EXPECT_THAT(Parse(client.Read()).status, ::testing::AnyOf(0, 400));
  }
  std::string many;
  for (int i = 0; i < 200; ++i) many += "X: y\r\n";
  EXPECT_THAT(Get("/metrics", many).status, ::testing::AnyOf(200, 400));
  EXPECT_GE(server_->requests().at(400), 2U);
  EXPECT_EQ(Get("/metrics").status, 200);
}

TEST_F(HttpServerTest, SurvivesClientsThatGoAway) {
  config_.max_requests = 60;
  handlers_.scrape = [] { return OneGauge(1, std::string(200000, 'x')); };
  Start();
  for (int i = 0; i < 20; ++i) Connect().Send("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_EQ(Get("/metrics").status, 200);
}

// ---- Start and stop ----

TEST_F(HttpServerTest, TellsThePortsItChose) {
  config_.listen_addresses = {"127.0.0.1:0", "localhost:0", ":0"};
  Start();
  const std::vector<std::string> addresses = server_->addresses();
  ASSERT_EQ(addresses.size(), 3U);
  EXPECT_THAT(addresses[0], StartsWith("127.0.0.1:"));
  EXPECT_THAT(addresses[1], StartsWith("127.0.0.1:"));
  EXPECT_THAT(addresses[2], ::testing::AnyOf(StartsWith("0.0.0.0:"), StartsWith("[::]:")));
  for (const std::string& address : addresses) {
    port_ = std::stoi(address.substr(address.rfind(':') + 1));
    EXPECT_GT(port_, 0);
    EXPECT_EQ(Get("/metrics").status, 200);
  }
}

TEST_F(HttpServerTest, RefusesMalformedAddresses) {
  for (const char* address : {"",
                              "localhost",
                              "9100",
                              ":",
                              ":x",
                              ":-1",
                              ":+80",
                              ":65536",
                              ":99999999999999999999",
                              "127.0.0.1:80x",
                              "127.0.0.1:",
                              ":80 ",
                              "::1:80",
                              "[::1]",
                              "[]:80",
                              "[127.0.0.1]:80",
                              "[::1:80",
                              "127.0.0.1,127.0.0.2:80",
                              "256.0.0.1:80",
                              "a b:80",
                              "no-such-host.invalid:80"}) {
    EXPECT_THAT(StartError({address}),
                AllOf(StartsWith("listen address \"" + std::string(address) + "\": "),
                      Not(HasSubstr("\n"))));
  }
  EXPECT_THAT(StartError({}), StartsWith("there is no listen address"));
  EXPECT_THAT(StartError({"127.0.0.1:0", ":x"}), StartsWith("listen address \":x\": "));
}

TEST_F(HttpServerTest, RefusesTls) {
  EXPECT_THAT(StartError({"127.0.0.1:0s"}), HasSubstr("TLS is not available"));
  EXPECT_THAT(StartError({":80r"}), HasSubstr("TLS is not available"));
}

TEST_F(HttpServerTest, RefusesAnAddressInUse) {
  Start();
  for (const std::string& host : {std::string("127.0.0.1"), std::string()}) {
    const std::string address = host + ":" + std::to_string(port_);
    EXPECT_THAT(StartError({address}),
                AllOf(StartsWith("listen address \"" + address + "\": "), HasSubstr("in use")));
  }
  const std::string own = "127.0.0.1:" + std::to_string(port_);
  server_.reset();
  EXPECT_THAT(StartError({own, own}), HasSubstr("in use"));
  EXPECT_EQ(StartError({own}), "it started");
}

TEST_F(HttpServerTest, RefusesAnAddressOfAnotherMachine) {
  EXPECT_THAT(StartError({"192.0.2.1:0"}),
              AllOf(StartsWith("listen address \"192.0.2.1:0\": "), HasSubstr("Cannot assign")));
}

TEST_F(HttpServerTest, ServesOrRefusesIpv6) {
  const std::string result = StartError({"[::1]:0"});
  EXPECT_THAT(result, ::testing::AnyOf("it started", HasSubstr("there is no IPv6 here"),
                                       HasSubstr("Cannot assign")));
}

TEST_F(HttpServerTest, StopsAtOnceAndStartsAgain) {
  for (int i = 0; i < 5; ++i) {
    Start();
    EXPECT_EQ(Get("/metrics").status, 200);
    EXPECT_LT(Took([this] { server_.reset(); }), milliseconds(1000));
  }
  Start();
  const Client idle = Connect();
  EXPECT_LT(Took([this] { server_.reset(); }), milliseconds(4000));
}

TEST_F(HttpServerTest, StopWaitsForARunningScrape) {
  std::latch running(1);
  std::latch go(1);
  std::atomic<bool> finished = false;
  handlers_.scrape = [&] {
    running.count_down();
    go.wait();
    finished = true;
    return OneGauge();
  };
  Start();
  const Client client = Connect();
  client.Send("GET /metrics HTTP/1.1\r\n\r\n");
  running.wait();
  auto stopped = std::async(std::launch::async, [this] { server_.reset(); });
  EXPECT_EQ(stopped.wait_for(milliseconds(50)), std::future_status::timeout);
  go.count_down();
  stopped.get();
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace kmem
