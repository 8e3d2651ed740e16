#include "exporter/collector_list.h"

#include "collectors/compaction.h"
#include "collectors/extfrag.h"
#include "collectors/fragmentation.h"
#include "collectors/page.h"
#include "collectors/pcp.h"
#include "collectors/pcp_lists.h"
#include "collectors/slab.h"

namespace kmem {

TraceCollectors MakeTraceCollectors(const CollectorsConfig& config) {
  TraceCollectors collectors;
  if (config.slab) collectors.push_back(std::make_unique<SlabCollector>());
  if (config.page) collectors.push_back(std::make_unique<PageCollector>());
  if (config.pcp) collectors.push_back(std::make_unique<PcpCollector>());
  if (config.extfrag) collectors.push_back(std::make_unique<ExtfragCollector>());
  return collectors;
}

ProcCollectors MakeProcCollectors(const CollectorsConfig& config) {
  ProcCollectors collectors;
  if (config.pcp) collectors.push_back(std::make_unique<PcpListsCollector>());
  if (config.fragmentation) collectors.push_back(std::make_unique<FragmentationCollector>());
  if (config.compaction) collectors.push_back(std::make_unique<CompactionCollector>());
  return collectors;
}

}  // namespace kmem
