// What was recorded from real kernels (tests/data/README.md), as the tests want it. A kernel that
// is recorded anew is found here by itself.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "exporter/tracefs/format.h"
#include "heap_page.h"

namespace kmem {

inline std::string TestData(const std::string& path) {
  return std::string(KMEM_TEST_DATA) + "/" + path;
}

inline std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("can't read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The names of the directories in tests/data/pages, for ::testing::ValuesIn.
inline std::vector<std::string> RecordedKernels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(TestData("pages"))) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

// A kernel's name as a part of a test's name.
inline std::string KernelTestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = "Linux" + info.param;
  std::ranges::replace(name, '.', '_');
  return name;
}

inline std::string PagesOf(const std::string& kernel, const std::string& file) {
  return TestData("pages/" + kernel + "/" + file);
}

inline bool HasPages(const std::string& kernel, const std::string& file) {
  return std::filesystem::exists(PagesOf(kernel, file));
}

inline PageLayout LayoutOf(const std::string& kernel, const std::string& file = "header_page") {
  return ParseHeaderPage(ReadWhole(PagesOf(kernel, file)));
}

// The sub-buffers of a .raw file.
inline std::vector<HeapPage> ReadPages(const std::string& kernel, const std::string& file,
                                       const PageLayout& layout) {
  const std::string text = ReadWhole(PagesOf(kernel, file));
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  const std::size_t size = layout.subbuffer_size();
  if (bytes.empty() || bytes.size() % size != 0) {
    throw std::runtime_error(file + " is not made of whole sub-buffers");
  }
  std::vector<HeapPage> pages;
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    pages.emplace_back(bytes.subspan(at, size));
  }
  return pages;
}

inline std::vector<HeapPage> ReadPages(const std::string& kernel, const std::string& file) {
  return ReadPages(kernel, file, LayoutOf(kernel));
}

// The kmem events whose formats were recorded.
inline std::vector<std::string> EventsOf(const std::string& kernel) {
  std::vector<std::string> events;
  for (const auto& entry : std::filesystem::directory_iterator(PagesOf(kernel, "format"))) {
    events.push_back(entry.path().filename().string());
  }
  std::ranges::sort(events);
  return events;
}

inline std::string FormatText(const std::string& kernel, const std::string& event) {
  return ReadWhole(PagesOf(kernel, "format/" + event));
}

inline void AddFormats(const std::string& kernel, Formats& formats) {
  for (const std::string& event : EventsOf(kernel)) formats.Add(event, FormatText(kernel, event));
}

}  // namespace kmem
