// A live source of events within its budget: beside it runs one thread that tells the governor what
// is seen and spent, and enables and disables tracepoints as it says. Scrapes get counters that are
// scaled up by what was not traced, and what tracing has cost.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "exporter/event_cost.h"
#include "exporter/governor.h"
#include "exporter/live_source.h"
#include "exporter/scaler.h"
#include "exporter/slowdown.h"

namespace kmem {

class GovernedSource : public EventSource {
 public:
  // `collectors` and `proc` must outlive this. With a budget of 0 everything is traced, and no
  // thread runs.
  GovernedSource(std::unique_ptr<LiveSource> source, const TraceCollectors& collectors,
                 const ProcReader& proc, const OverheadConfig& config, const EventCost& event_cost);
  ~GovernedSource() override;

  [[nodiscard]] std::string_view engine() const override { return source_->engine(); }
  [[nodiscard]] std::string_view reason() const override { return source_->reason(); }
  [[nodiscard]] const KernelFacts& facts() const override { return source_->facts(); }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override {
    return source_->missing_events();
  }
  [[nodiscard]] EventState Snapshot() override;

 private:
  // One of the group's tracepoints, traced by itself before a window.
  struct Probe {
    std::size_t place = 0;  // in the group
    bool open = false;
    std::uint64_t begin_ns = 0;
    std::uint64_t events_at_begin = 0;
    double events = 0;
    double rate = 0;  // events a second
  };

  // A counter of the kernel's own that goes along with a group's events, whether they are traced.
  struct Pace {
    double seconds = 0;  // when
    double count = 0;
  };

  // How many times as many events there had been without tracing.
  struct Slowdown {
    Foretold foretold;   // by what events cost
    double learned = 1;  // by probes, too
    double cost_ratio = 1;
  };

  // One group's windows. The governing thread's, but for what scrapes read: by the mutex.
  struct Windows {
    std::uint64_t traced_ns = 0;               // up to open_since_ns
    std::uint64_t reported_ns = 0;             // of it, and since then
    std::uint64_t open_since_ns = 0;           // 0: not traced now
    std::uint64_t last_end_ns = 0;             // of a window, or of being exact
    std::vector<std::uint64_t> cpus_at_begin;  // events by CPU
    double process_at_begin = 0;               // CPU time of this process
    double process_at_end = 0;
    std::vector<double> idle_at_end;  // by CPU, seconds; of the last window
    std::uint64_t events_at_begin = 0;
    std::uint64_t events_at_end = 0;  // of the last window
    std::uint64_t lost_at_begin = 0;
    std::uint64_t all_at_begin = 0;            // events of all groups
    std::vector<std::uint64_t> each_at_begin;  // events by tracepoint of the group
    std::vector<double> each;                  // in the last window
    bool allocates_pages = false;              // of which the kernel counts how many there are
    std::optional<Pace> pace_at_last_end;
    std::optional<Pace> pace_at_begin;
    std::optional<Pace> pace_at_end;
    Probe probe;
    SlowdownLearner learner;
  };

  void LogMode(const OverheadConfig& config, const EventCost& event_cost) const;
  void Govern();
  void Do(const Governor::Action& action);
  EventState Toggle(const std::function<EventState()>& change, std::size_t tracepoints);
  void CountTraced(std::size_t group, std::uint64_t now_ns, bool open);
  void BeginProbe(std::size_t group);
  void EndProbe(std::size_t group);
  void BeginWindow(std::size_t group, EventState& state);
  void AboutToEnd(std::size_t group);
  void EndWindow(std::size_t group, EventState& state, bool exact);
  Slowdown SlowdownOf(std::size_t group, const EventState& state, double seconds, double period);
  // The group's events in a state.
  [[nodiscard]] std::uint64_t Counted(std::size_t group, const EventState& state) const;
  [[nodiscard]] std::vector<std::uint64_t> CountedByTracepoint(std::size_t group,
                                                               const EventState& state) const;
  [[nodiscard]] std::vector<std::uint64_t> CountedByCpu(std::size_t group,
                                                        const EventState& state) const;
  // Of the window that ends with the state: what was foretold, and what a probe has shown, if any.
  Foretold ForetellBy(std::size_t group, const EventState& state, double seconds, double period);
  [[nodiscard]] std::optional<SlowdownLearner::Probe> ShownBy(const Windows& windows,
                                                              double seconds) const;
  [[nodiscard]] std::optional<Pace> ReadPace(const Windows& windows) const;
  [[nodiscard]] std::vector<double> ReadIdle() const;
  [[nodiscard]] std::string NameOf(std::size_t group) const;
  Governor::Reading Read();
  [[nodiscard]] std::uint64_t EventsOf(std::size_t group, const TraceLoad& load) const;
  [[nodiscard]] Overhead ReadOverhead(std::uint64_t now_ns);

  const TraceCollectors& collectors_;
  const ProcReader& proc_;
  std::unique_ptr<LiveSource> source_;
  std::vector<SampleGroup> groups_;
  Scaler scaler_;
  Overhead fixed_;  // the budget and the cost of an event
  std::optional<Governor> governor_;

  std::mutex mutex_;  // of what follows
  std::condition_variable stop_changed_;
  bool stopping_ = false;
  std::vector<Windows> windows_;
  std::uint64_t outside_charged_ = 0;  // TraceLoad::outside: to windows up to now
  double toggle_seconds_ = 0;
  double cost_above_measured_seconds_ = 0;  // of the events of windows
  // CPU time of the governing thread, and of that what was for toggling.
  double thread_seconds_ = 0;
  double toggle_thread_seconds_ = 0;

  std::thread thread_;
};

}  // namespace kmem
