#include "exporter/symbols.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace kmem {
namespace {

class Files : public ProcReader {
 public:
  explicit Files(std::map<std::string, std::string, std::less<>> files)
      : files_(std::move(files)) {}
  void Write(const std::string& path, const std::string& text) { files_[path] = text; }
  [[nodiscard]] std::string Read(std::string_view path) const override {
    const auto found = files_.find(path);
    if (found == files_.end()) throw ProcError("/proc/" + std::string(path) + ": missing");
    return found->second;
  }

 private:
  std::map<std::string, std::string, std::less<>> files_;
};

constexpr const char* kKallsyms =
    "ffffffff81000000 T _stext\n"
    "ffffffff81000000 T _text\n"
    "ffffffff81000100 t do_one\n"
    "ffffffff81000200 T do_two\n"
    "ffffffff81000240 d some_data\n"
    "ffffffffc0000000 t ext4_alloc\t[ext4]\n"
    "ffffffffc0000080 t odd\"name\\\t[odd_mod]\n";

std::string Name(const KernelSymbols& symbols, std::uint64_t address) {
  const auto symbol = symbols.Find(address);
  return symbol ? symbol->function + " " + symbol->module : "none";
}

TEST(SymbolsTest, AReturnAddressBelongsToTheFunctionOfItsCall) {
  const Files proc({{"kallsyms", kKallsyms}, {"modules", ""}});
  const KernelSymbols symbols(proc);
  EXPECT_TRUE(symbols.available());
  EXPECT_EQ(symbols.problem(), "");
  EXPECT_EQ(Name(symbols, 0xffffffff81000101), "do_one kernel");
  // The call was the last instruction of the function before.
  EXPECT_EQ(Name(symbols, 0xffffffff81000200), "do_one kernel");
  EXPECT_EQ(Name(symbols, 0xffffffff81000250), "do_two kernel");
  EXPECT_EQ(Name(symbols, 0xffffffffc0000010), "ext4_alloc ext4");
  EXPECT_EQ(Name(symbols, 0xffffffffc0000090), "odd\"name\\ odd_mod");
}

TEST(SymbolsTest, WhatIsHiddenLaterKeepsTheNamesOfTheKernelItself) {
  const std::string hidden = "0000000000000000 T do_one\n0000000000000000 t ext4_alloc\t[ext4]\n";
  const std::string modules = "ext4 999 0 - Live 0xffffffffc0000000\n";
  Files proc({{"kallsyms", kKallsyms}, {"modules", modules}, {"sys/kernel/kptr_restrict", "1\n"}});
  KernelSymbols symbols(proc);
  const std::uint64_t version = symbols.Refresh();
  proc.Write("kallsyms", hidden);
  EXPECT_EQ(symbols.Refresh(), version);  // as long as nothing says so
  proc.Write("sys/kernel/kptr_restrict", "2\n");
  proc.Write("modules", "ext4 999 0 - Live 0x0000000000000000\n");
  EXPECT_NE(symbols.Refresh(), version);
  EXPECT_TRUE(symbols.available());
  EXPECT_NE(symbols.problem(), "");
  EXPECT_EQ(Name(symbols, 0xffffffff81000101), "do_one kernel");
  EXPECT_EQ(Name(symbols, 0xffffffffc0000010), "none");  // another one may be there by now
  proc.Write("kallsyms", kKallsyms);
  proc.Write("sys/kernel/kptr_restrict", "1\n");
  symbols.Refresh();
  EXPECT_EQ(symbols.problem(), "");
  EXPECT_EQ(Name(symbols, 0xffffffffc0000010), "ext4_alloc ext4");
}

TEST(SymbolsTest, WhatIsHiddenAtTheStartHasNamesOnceItNoLongerIs) {
  Files proc({{"kallsyms", "0000000000000000 T do_one\n"}, {"sys/kernel/kptr_restrict", "2\n"}});
  KernelSymbols symbols(proc);
  EXPECT_FALSE(symbols.available());
  symbols.Refresh();
  proc.Write("kallsyms", kKallsyms);
  symbols.Refresh();
  EXPECT_FALSE(symbols.available());
  proc.Write("sys/kernel/kptr_restrict", "0\n");
  symbols.Refresh();
  EXPECT_TRUE(symbols.available());
  EXPECT_EQ(Name(symbols, 0xffffffff81000101), "do_one kernel");
}

TEST(SymbolsTest, AModuleThatComesHasNamesAtTheNextLookAndOneThatGoesHasNoneLeft) {
  Files proc({{"kallsyms", kKallsyms}, {"modules", "ext4 999 0 - Live 0xffffffffc0000000\n"}});
  KernelSymbols symbols(proc);
  const std::uint64_t version = symbols.Refresh();
  EXPECT_EQ(Name(symbols, 0xffffffffc0400010), "none");
  proc.Write("kallsyms", "ffffffff81000000 T _stext\nffffffffc0400000 t tun_alloc\t[tun]\n");
  EXPECT_EQ(symbols.Refresh(), version);  // as long as the modules are the same
  proc.Write("modules", "tun 99 0 - Live 0xffffffffc0400000\n");
  EXPECT_NE(symbols.Refresh(), version);
  EXPECT_EQ(Name(symbols, 0xffffffffc0400010), "tun_alloc tun");
  EXPECT_EQ(Name(symbols, 0xffffffffc0000010), "none");
}

TEST(SymbolsTest, TheNumbersOfAModulesUsersMakeNoDifference) {
  Files proc({{"kallsyms", kKallsyms}, {"modules", "ext4 999 0 - Live 0xffffffffc0000000\n"}});
  KernelSymbols symbols(proc);
  const std::uint64_t version = symbols.Refresh();
  proc.Write("modules", "ext4 999 3 - Live 0xffffffffc0000000\n");
  EXPECT_EQ(symbols.Refresh(), version);
  proc.Write("modules", "ext4 999 4 jbd2,mbcache, Live 0xffffffffc0000000\n");
  EXPECT_EQ(symbols.Refresh(), version);
}

// As one from outside the kernel's tree: what it taints stands behind its address.
TEST(SymbolsTest, AModuleThatCameBackElsewhereIsReadAnewThoughItTaintsTheKernel) {
  Files proc({{"kallsyms", "ffffffff81000000 T _stext\nffffffffc0400000 t tun_alloc\t[tun]\n"},
              {"modules", "tun 99 0 - Live 0xffffffffc0400000 (OE)\n"}});
  KernelSymbols symbols(proc);
  const std::uint64_t version = symbols.Refresh();
  proc.Write("kallsyms", "ffffffff81000000 T _stext\nffffffffc0500000 t tun_alloc\t[tun]\n");
  proc.Write("modules", "tun 99 0 - Live 0xffffffffc0500000 (OE)\n");
  EXPECT_NE(symbols.Refresh(), version);
  EXPECT_EQ(Name(symbols, 0xffffffffc0500010), "tun_alloc tun");
  EXPECT_EQ(Name(symbols, 0xffffffffc0400010), "none");
}

TEST(SymbolsTest, OfTwoNamesOfOneAddressTheFirstStands) {
  const Files proc({{"kallsyms", kKallsyms}, {"modules", ""}});
  EXPECT_EQ(Name(KernelSymbols(proc), 0xffffffff81000010), "_stext kernel");
}

// As arm64 lists them, before the function at the same address or within it.
TEST(SymbolsTest, MappingSymbolsAreNoNames) {
  const Files proc({{"kallsyms",
                     "ffff800008000000 T _stext\n"
                     "ffff80007c000000 t $x\t[ext4]\n"
                     "ffff80007c000000 t ext4_alloc\t[ext4]\n"
                     "ffff80007c000040 t $d.12\t[ext4]\n"},
                    {"modules", ""}});
  const KernelSymbols symbols(proc);
  EXPECT_EQ(Name(symbols, 0xffff80007c000010), "ext4_alloc ext4");
  EXPECT_EQ(Name(symbols, 0xffff80007c000050), "ext4_alloc ext4");
}

TEST(SymbolsTest, WhatLiesFarFromAnyFunctionHasNoName) {
  const Files proc({{"kallsyms", kKallsyms}, {"modules", ""}});
  const KernelSymbols symbols(proc);
  EXPECT_EQ(Name(symbols, 0xffffffff80000000), "none");
  EXPECT_EQ(Name(symbols, 0xffffffff90000000), "none");
  EXPECT_EQ(Name(symbols, 0xffffffffd0000000), "none");
}

TEST(SymbolsTest, HiddenAddressesAreSaidWithWhatTheyNeed) {
  const Files proc(
      {{"kallsyms", "0000000000000000 T _stext\n0000000000000000 t do_one\n"}, {"modules", ""}});
  const KernelSymbols symbols(proc);
  EXPECT_FALSE(symbols.available());
  EXPECT_EQ(symbols.problem(),
            "the kernel hides the addresses in /proc/kallsyms; they need CAP_SYSLOG and "
            "kernel.kptr_restrict 0 or 1");
  EXPECT_EQ(Name(symbols, 0xffffffff81000101), "none");
}

TEST(SymbolsTest, AKernelWithoutTheFilesLeavesThemUnavailableAndSaysWhy) {
  const Files proc({});
  const KernelSymbols symbols(proc);
  EXPECT_FALSE(symbols.available());
  EXPECT_EQ(symbols.problem(), "/proc/kallsyms: missing");
}

TEST(SymbolsTest, LinesOfAnyOtherShapeAreLeftOut) {
  const Files proc({{"kallsyms",
                     "\n \nffffffff81000100\nxyz T name\nffffffff81000100 T\n"
                     "ffffffff81000100 TT two\nffffffff81000200 T fine\n"},
                    {"modules", ""}});
  const KernelSymbols symbols(proc);
  EXPECT_EQ(Name(symbols, 0xffffffff81000210), "fine kernel");
}

}  // namespace
}  // namespace kmem
