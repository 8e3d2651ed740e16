#include "exporter/yaml_tree.h"

#include <spdlog/fmt/fmt.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <utility>

#include "exporter/config.h"
#include "exporter/text.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxDepth = 16;  // of nested maps and lists; the deepest key needs 4
// yaml-cpp gathers the brackets of a line before it reports the first one, at 240 bytes each. No
// comment or text has as many that stay open.
constexpr int kMaxOpenBrackets = 1000;
constexpr std::string_view kAllowedDocument = "a YAML map of keys and values";

// Makes the tree of yaml-cpp's events. Its own Node is not used: it accepts duplicate keys, expands
// aliases and recurses without a bound of ours.
class TreeReader : public YAML::EventHandler {
 public:
  // Both must outlive the reader.
  TreeReader(std::string_view text, std::string_view file) : text_(text), file_(file) {}

  YamlNode Read() {
    CheckCharacters();
    std::istringstream stream{std::string(text_)};
    try {
      YAML::Parser parser(stream);
      while (parser.HandleNextDocument(*this)) {
      }
    } catch (const YAML::Exception& error) {
      if (At(error.mark) == '*') OnAlias(error.mark, 0);  // of an anchor that does not exist
      Refuse(error.mark, fmt::format("is not valid YAML ({})", Escaped(error.msg)),
             kAllowedDocument);
    }
    if (root_.kind == YamlNode::Kind::kText || root_.kind == YamlNode::Kind::kList) {
      RefuseYaml(file_, root_.place, "document", "is not a map", kAllowedDocument);
    }
    return std::move(root_);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) Refuse(mark, "has a second document", "one document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Add(mark, anchor, {}, YamlNode::Kind::kNull);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    Refuse(mark, "is an alias", "the value itself");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode& node = Add(mark, anchor, tag, YamlNode::Kind::kText);
    node.text = value;
    node.quoted = tag == "!";
    if (!QuoteEnds(mark)) Refuse(mark, "has no closing quote", "a complete text");
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    Open(mark, Add(mark, anchor, tag, YamlNode::Kind::kList));
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    Open(mark, Add(mark, anchor, tag, YamlNode::Kind::kMap));
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  static YamlPlace PlaceOf(const YAML::Mark& mark) {
    return {std::max(mark.line, 0) + 1, std::max(mark.column, 0) + 1};
  }

  // The byte at the mark; yaml-cpp counts in bytes.
  [[nodiscard]] char At(const YAML::Mark& mark) const {
    const auto at = static_cast<std::size_t>(mark.pos);
    return mark.pos >= 0 && at < text_.size() ? text_[at] : '\0';
  }

  // The dotted path of what is being read.
  [[nodiscard]] std::string Path() const {
    std::string path;
    for (const YamlNode* node : open_) {
      if (node->items.empty()) break;
      if (node->kind == YamlNode::Kind::kList) {
        path += fmt::format("[{}]", node->items.size() - 1);
      } else {
        // The key, whether its value has come or not.
        const std::string& key = node->items[(node->items.size() - 1) / 2 * 2].text;
        path += (path.empty() ? "" : ".") + ShownKey(key);
      }
    }
    return path.empty() ? "document" : path;
  }

  [[noreturn]] void Refuse(const YAML::Mark& mark, std::string_view problem,
                           std::string_view allowed) const {
    RefuseYaml(file_, PlaceOf(mark), Path(), problem, allowed);
  }

  YamlNode& Add(const YAML::Mark& mark, YAML::anchor_t anchor, const std::string& tag,
                YamlNode::Kind kind) {
    YamlNode* node = &root_;
    if (!open_.empty()) node = &open_.back()->items.emplace_back();
    node->kind = kind;
    node->place = PlaceOf(mark);
    // A null comes without its tag, and "!" is also the tag of quoted text: the byte decides.
    const char at = At(mark);
    if (anchor != 0 || at == '&') Refuse(mark, "has an anchor", "a value without one");
    const bool tagged = at == '!' || !(tag.empty() || tag == "?" || tag == "!");
    if (tagged) Refuse(mark, "has a tag", "a value without one");
    return *node;
  }

  // `open_` may point into vectors: a vector only grows while none of its elements is open.
  void Open(const YAML::Mark& mark, YamlNode& node) {
    if (open_.size() == kMaxDepth) RefuseDepth(PlaceOf(mark));
    open_.push_back(&node);
  }

  [[noreturn]] void RefuseDepth(YamlPlace place) const {
    RefuseYaml(file_, place, "document", "is nested too deep",
               fmt::format("a depth of {}", kMaxDepth));
  }

  // yaml-cpp 0.7 takes the end of the file for the end of a quoted text.
  [[nodiscard]] bool QuoteEnds(const YAML::Mark& mark) const {
    const char quote = At(mark);
    if (quote != '"' && quote != '\'') return true;
    for (std::size_t at = static_cast<std::size_t>(mark.pos) + 1; at < text_.size(); ++at) {
      if (quote == '"' && text_[at] == '\\') {
        ++at;
      } else if (text_[at] == quote) {
        if (quote == '"' || at + 1 == text_.size() || text_[at + 1] != quote) return true;
        ++at;
      }
    }
    return false;
  }

  // yaml-cpp guesses at encodings, takes byte 4 for the end, and reads on past bad UTF-8.
  void CheckCharacters() const {
    YamlPlace place;
    int brackets = 0;
    for (std::size_t at = 0; at < text_.size();) {
      const std::size_t length = Utf8Length(text_.substr(at));
      if (length == 0) RefuseYaml(file_, place, "document", "is not UTF-8", "UTF-8");
      const char c = text_[at];
      const bool end_of_line = c == '\n' || text_.substr(at, 2) == "\r\n";
      if (!end_of_line && c != '\t' && (static_cast<unsigned char>(c) < ' ' || c == '\x7F')) {
        RefuseYaml(file_, place, "document", "has a control character", "text, tabs and line ends");
      }
      if (c == '[' || c == '{') ++brackets;
      if (c == ']' || c == '}') brackets = std::max(0, brackets - 1);
      if (brackets > kMaxOpenBrackets) RefuseDepth(place);
      at += length;
      place = c == '\n' ? YamlPlace{place.line + 1, 1}
                        : YamlPlace{place.line, place.column + static_cast<int>(length)};
    }
  }

  std::string_view text_;
  std::string_view file_;
  int documents_ = 0;
  YamlNode root_;
  std::vector<YamlNode*> open_;  // from the root to the list or map being read
};

}  // namespace

YamlNode ReadYaml(std::string_view text, std::string_view file) {
  return TreeReader(text, file).Read();
}

std::string ShownKey(std::string_view key) { return Escaped(key.substr(0, 64)); }

void RefuseYaml(std::string_view file, YamlPlace place, std::string_view key,
                std::string_view problem, std::string_view allowed) {
  throw ConfigError(fmt::format("{}:{}:{}: {}: {}, allowed is {}", Escaped(file), place.line,
                                place.column, key, problem, allowed));
}

}  // namespace kmem
