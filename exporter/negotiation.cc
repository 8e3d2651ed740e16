// What the client's header values (RFC 9110) ask for.
#include <algorithm>
#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "exporter/exposition.h"

namespace kmem {
namespace {

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool SameWord(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, Lower, Lower);
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

// Cuts the part before the next `separator` outside quotes off `rest`.
std::string_view TakeUntil(std::string_view& rest, char separator) {
  bool quoted = false;
  std::size_t i = 0;
  for (; i < rest.size() && (quoted || rest[i] != separator); ++i) {
    if (rest[i] == '"') quoted = !quoted;
    if (quoted && rest[i] == '\\') ++i;
  }
  const std::string_view part = rest.substr(0, i);
  rest.remove_prefix(std::min(i + 1, rest.size()));
  return Trim(part);
}

// One element of an Accept or Accept-Encoding list.
struct Choice {
  std::string_view name;     // a media range or a coding
  std::string_view version;  // empty where none is given
  double quality = 1;        // 0 where the client's number is malformed: it is no wish then
};

double ParseQuality(std::string_view text) {
  double quality = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), quality, std::chars_format::fixed);
  const bool good = error == std::errc() && end == text.data() + text.size();
  return good && quality >= 0 && quality <= 1 ? quality : 0;
}

std::vector<Choice> ParseChoices(std::string_view header) {
  std::vector<Choice> choices;
  while (!header.empty()) {
    std::string_view element = TakeUntil(header, ',');
    Choice choice{.name = TakeUntil(element, ';'), .version = {}};
    while (!element.empty()) {
      std::string_view value = TakeUntil(element, ';');
      const std::string_view parameter = TakeUntil(value, '=');
      if (SameWord(parameter, "q")) choice.quality = ParseQuality(value);
      if (!SameWord(parameter, "version")) continue;
      if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
        value = value.substr(1, value.size() - 2);
      }
      choice.version = value;
    }
    if (!choice.name.empty()) choices.push_back(choice);
  }
  return choices;
}

// How exactly `choice` names the format: 0 not at all, 4 with its version.
int Match(const Choice& choice, TextFormat format) {
  const bool open = format == TextFormat::kOpenMetrics;
  if (SameWord(choice.name, open ? "application/openmetrics-text" : "text/plain")) {
    if (choice.version.empty()) return 3;
    // 0.0.1 is what Prometheus calls the draft that became 1.0.0.
    const bool ours =
        open ? choice.version == "1.0.0" || choice.version == "0.0.1" : choice.version == "0.0.4";
    return ours ? 4 : 0;
  }
  if (SameWord(choice.name, open ? "application/*" : "text/*")) return 2;
  return choice.name == "*/*" ? 1 : 0;
}

// The quality the client gives the format: the best of those that name it most exactly.
double Quality(const std::vector<Choice>& choices, TextFormat format) {
  std::pair<int, double> best{0, 0};
  for (const Choice& choice : choices) {
    const int match = Match(choice, format);
    if (match > 0) best = std::max(best, {match, choice.quality});
  }
  return best.second;
}

}  // namespace

TextFormat NegotiateFormat(std::string_view accept) {
  const std::vector<Choice> choices = ParseChoices(accept);
  const bool open =
      Quality(choices, TextFormat::kOpenMetrics) > Quality(choices, TextFormat::kPrometheus);
  return open ? TextFormat::kOpenMetrics : TextFormat::kPrometheus;
}

bool AcceptsGzip(std::string_view accept_encoding) {
  bool any = false;
  for (const Choice& choice : ParseChoices(accept_encoding)) {
    if (SameWord(choice.name, "gzip") || SameWord(choice.name, "x-gzip")) return choice.quality > 0;
    if (choice.name == "*") any = choice.quality > 0;
  }
  return any;
}

std::string_view ContentType(TextFormat format) {
  return format == TextFormat::kOpenMetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

}  // namespace kmem
