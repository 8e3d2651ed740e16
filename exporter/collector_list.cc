#include "exporter/collector_list.h"

#include <algorithm>

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
  if (config.slab) collectors.push_back(std::make_unique<SlabCollector>(config.slab_options));
  if (config.page) collectors.push_back(std::make_unique<PageCollector>(config.page_options));
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

std::vector<std::string> WantedEvents(const TraceCollectors& collectors,
                                      std::span<const std::string> extra_events) {
  std::vector<std::string> names;
  const auto add = [&names](std::string_view name) {
    if (std::ranges::find(names, name) == names.end()) names.emplace_back(name);
  };
  for (const auto& collector : collectors) {
    for (const EventSpec& event : collector->events()) add(event.name);
  }
  for (const std::string& name : extra_events) add(name);
  return names;
}

}  // namespace kmem
