// What the collectors must know of the kernel beside its events' formats. Used once at start.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/collector.h"

namespace kmem {

// The names by number that enum migratetype has had since 3.18 (include/linux/mmzone.h); whether 4
// and 5 are cma and isolate depends on the kernel's configuration, so they are left out.
std::vector<std::string> CommonMigratetypes();

// From /proc: the number of orders (buddyinfo), the names of the migratetypes and pageblock_order
// (pagetypeinfo, mode 0400), the CPUs that are online (stat). What can't be read keeps the default
// of KernelFacts, or CommonMigratetypes(), and the order of a huge page.
KernelFacts ReadKernelFacts(const ProcReader& proc);

// By CPU, its NUMA node: of the CPUs that are online, from node*/cpulist below the directory. Empty
// where the kernel has no nodes.
inline constexpr const char* kNodeDirectory = "/sys/devices/system/node";
std::vector<std::uint32_t> ReadCpuNodes(const std::string& directory);

// The numbers in a list such as "0-3,8"; what is no number ends it.
std::vector<std::uint32_t> ParseCpuList(std::string_view text);

// The online CPUs that the text of /proc/stat lists.
std::vector<std::uint32_t> ParseOnlineCpus(std::string_view proc_stat);

}  // namespace kmem
