// Puts one scrape together: the tracing collectors from a snapshot, the /proc collectors by
// reading, the exporter's own metrics. Any thread; scrapes do not wait for each other.
#pragma once

#include <functional>
#include <string>

#include "exporter/collector_list.h"
#include "exporter/config.h"
#include "exporter/exporter_metrics.h"
#include "exporter/tracing.h"

namespace kmem {

class Scraper {
 public:
  // All must outlive this.
  Scraper(const Config& config, const TraceCollectors& trace_collectors,
          const ProcCollectors& proc_collectors, const ProcReader& proc, const Tracing& tracing);

  // `http_requests` are those answered so far.
  [[nodiscard]] Families Scrape(const std::map<int, std::uint64_t>& http_requests) const;

  // What is traced, what is not and why, for people: an HTML page.
  [[nodiscard]] std::string LandingPage() const;

 private:
  using Results = std::map<std::string, CollectorResult, std::less<>>;
  void ScrapeTraced(const Tracing::Status& status, Results& results, Families& out) const;
  void ScrapeProc(const KernelFacts& facts, Results& results, Families& out) const;

  const Config& config_;
  const TraceCollectors& trace_collectors_;
  const ProcCollectors& proc_collectors_;
  const ProcReader& proc_;
  const Tracing& tracing_;
  KernelFacts proc_facts_;
};

}  // namespace kmem
