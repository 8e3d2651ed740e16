#include "collectors/pcp_lists.h"

#include <cstdint>
#include <string>

#include "collectors/proc_tables.h"

namespace kmem {
namespace {

void AppendLimit(const Zoneinfo& zoneinfo, std::uint32_t ZonePagesets::*limit,
                 FamilyBuilder family) {
  for (const ZonePagesets& pagesets : zoneinfo.pagesets) {
    family.Add({{"numa_node", std::to_string(pagesets.node)}, {"mem_zone", pagesets.zone}},
               pagesets.*limit);
  }
}

}  // namespace

void PcpListsCollector::Collect(const ProcReader& proc, const KernelFacts& /*facts*/,
                                Families& out) const {
  const Zoneinfo zoneinfo = ParseZoneinfo(proc.Read("zoneinfo"));
  AppendLimit(zoneinfo, &ZonePagesets::high,
              {out, FamilyBuilder::Type::Gauge, "kmem_pcp_high_pages",
               "Pages on a CPU's list of the zone above which it is drained, the largest of the "
               "CPUs. high in pagesets of /proc/zoneinfo, all kernels; tuned to the load by the "
               "kernel since 6.7."});
  AppendLimit(zoneinfo, &ZonePagesets::batch,
              {out, FamilyBuilder::Type::Gauge, "kmem_pcp_batch_pages",
               "Pages that a CPU's list of the zone takes from or gives to the buddy lists at a "
               "time, the largest of the CPUs; since 5.14 the kernel may trade several batches at "
               "once. batch in pagesets of /proc/zoneinfo, all kernels."});
}

}  // namespace kmem
