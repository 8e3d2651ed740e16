#include "exporter/governor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace kmem {
namespace {

constexpr double kTickSeconds = 1.0;
// Of what is there that a group may take and be exact, while others come after it.
constexpr double kMostOfWhatIsThere = 0.9;
// Of what is planned, which is there for the others whatever the groups that are never sampled
// take: leaving them out gains little then.
constexpr double kLeftByTheNeverSampled = 0.25;
constexpr double kBackBelow = 0.7;
constexpr double kFarOver = 3;
constexpr double kSmoothing = 0.5;
// Of what windows show. A quiet one between bursts hardly makes the next one longer.
constexpr double kFalling = 0.1;
// From the end of a storm to when the group is exact, at the most: a period until a window shows
// it, calm, and a period until a window ends.
constexpr double kBackSeconds = 28;
// The third time in so long a group comes and goes, and is to be calm for much longer.
constexpr double kRestlessSeconds = 600;
constexpr double kRestlessCalmSeconds = 120;
// Of what an exact group's events cost beyond what was measured: how soon it is forgotten.
constexpr double kRatioSeconds = 180;
constexpr double kShortestWindow = 0.03;
constexpr double kShortestLossyWindow = 0.01;
constexpr double kLongestWindowShare = 0.8;  // of the period
constexpr double kProbeShare = 1.0 / 3;      // of the window that follows
constexpr double kShortestProbe = 0.01;
constexpr double kLongestProbe = 0.3;
// What enabling and disabling may take of a share: the longer the windows, the less the moments
// after enabling count, in which a load is slowed down more than by the events.
constexpr double kToggleShare = 0.1;
// Losses that count: fewer come from a hiccup.
constexpr double kLossShare = 0.001;
// A group with a smaller part of the events does not lose them: leaving it out would make no room.
constexpr double kLeastPartOfLosers = 0.2;
// Of a window that lost events: as long as one gets again, until they are forgotten.
constexpr double kBelowLossyWindow = 0.8;
constexpr double kLossesForgottenSeconds = 600;
// From the end of a window to when what it lost has been seen.
constexpr double kLossesSeenSeconds = 0.25;
// With fewer events the reader's cost is that of waking up.
constexpr double kEventsToLearnFrom = 10'000;

void Smooth(double& value, double now) { value += kSmoothing * (now - value); }

}  // namespace

Governor::Governor(const Options& options, const std::vector<Sampling>& groups)
    : options_(options), random_(options.seed) {
  for (const Sampling sampling : groups) {
    Group group;
    group.sampling = sampling;
    group.longest_window = kLongestPeriod;
    groups_.push_back(group);
  }
}

std::vector<Governor::Action> Governor::Tick(const Reading& reading) {
  std::vector<Action> actions;
  const double elapsed = reading.now - last_.now;
  if (first_) {
    first_ = false;
    last_ = reading;
    toggle_seen_ = reading.toggle_seconds;
  } else if (elapsed >= kTickSeconds * 0.9) {
    double events = 0;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const auto seen = static_cast<double>(reading.events[i] - last_.events[i]);
      events += seen;
      if (groups_[i].sampled) continue;
      Smooth(groups_[i].rate, seen / elapsed);
      groups_[i].cost_ratio = 1 + (groups_[i].cost_ratio - 1) * std::exp(-elapsed / kRatioSeconds);
    }
    LearnReaderCost(reading.reader_seconds - last_.reader_seconds, events);
    if (cycles_ >= 2) {
      Smooth(cycle_cost_, (reading.toggle_seconds - toggle_seen_) / static_cast<double>(cycles_));
      toggle_seen_ = reading.toggle_seconds;
      cycles_ = 0;
    }
    ShareBudget(reading.budget);
    const auto lost = static_cast<double>(reading.lost - last_.lost);
    ActOnLosses(lost / std::max(events + lost, kEventsToLearnFrom), reading.now, actions);
    CheckExact(reading.now, actions);
    last_ = reading;
  }
  CheckWindows(reading.now, actions);
  return actions;
}

void Governor::LearnReaderCost(double seconds, double events) {
  if (events < kEventsToLearnFrom) return;
  Smooth(reader_cost_, seconds / events);
}

// What remains for each group, in the order in which they are served.
void Governor::ShareBudget(double budget) {
  const auto cost = [this](const Group& group) { return Cost(group, group.rate); };
  double left = budget * kAim;
  std::vector<Group*> order;
  for (Group& group : groups_) {
    if (group.sampling == Sampling::kNever) {
      left -= cost(group);
    } else {
      order.push_back(&group);
    }
  }
  left = std::max(left, budget * kAim * kLeftByTheNeverSampled);
  std::ranges::sort(order, [&](const Group* a, const Group* b) {
    if (a->sampling != b->sampling) return a->sampling == Sampling::kLast;
    return cost(*a) < cost(*b);
  });
  std::size_t waiting = order.size();
  for (Group* group : order) {
    group->allowance = left * (waiting == 1 ? 1 : kMostOfWhatIsThere);
    group->share = left / static_cast<double>(waiting);
    left -= group->sampled ? group->share : std::min(cost(*group), group->allowance);
    --waiting;
  }
}

// The group with the most events is to leave room for the others'. Where it is sampled already, its
// windows show the losses; what is lost between windows, those lose that are exact.
void Governor::ActOnLosses(double lost_share, double now, std::vector<Action>& actions) {
  if (lost_share < kLossShare || groups_.empty()) return;
  const auto busiest = std::ranges::max_element(groups_, {}, &Group::rate);
  const auto index = [&](auto group) { return static_cast<std::size_t>(group - groups_.begin()); };
  if (busiest->sampling == Sampling::kNever && !told_of_losses_) {
    told_of_losses_ = true;
    actions.push_back({index(busiest), Action::Kind::kLoses});
  }
  const bool between_windows = last_.now > windows_until_ + kLossesSeenSeconds;
  const auto dearest = std::ranges::max_element(groups_, {}, [&](const Group& group) {
    const bool cannot = group.sampling == Sampling::kNever || (group.sampled && between_windows);
    return cannot ? -1 : group.rate;
  });
  if (dearest->sampling == Sampling::kNever || dearest->sampled || !MayLose(*dearest)) return;
  dearest->lossy_rate = dearest->rate;
  dearest->lossy_until = now + kLossesForgottenSeconds;
  StartSampling(index(dearest), now, actions);
}

// Whether it has its part of the events while it is traced.
bool Governor::MayLose(const Group& group) const {
  double all = group.rate;
  for (const Group& other : groups_) {
    if (&other != &group && !other.sampled) all += other.rate;
  }
  return group.rate >= kLeastPartOfLosers * all;
}

void Governor::CheckExact(double now, std::vector<Action>& actions) {
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Group& group = groups_[i];
    if (group.sampling == Sampling::kNever || group.sampled) continue;
    const double cost = Cost(group, group.rate);
    group.ticks_over = cost > group.allowance ? group.ticks_over + 1 : 0;
    if (group.ticks_over >= 2 || cost > kFarOver * std::max(group.allowance, 1e-9)) {
      StartSampling(i, now, actions);
    }
  }
}

void Governor::StartSampling(std::size_t index, double now, std::vector<Action>& actions) {
  Group& group = groups_[index];
  group.restless = now - std::exchange(group.start_before, group.start) < kRestlessSeconds;
  group.start = now;
  group.sampled = true;
  group.open = false;
  group.ticks_over = 0;
  group.calm_since = 0;
  group.probing = false;
  group.first_window = true;
  PlanPause(group, now);
  windows_until_ = std::max(windows_until_, now);
  actions.push_back({index, Action::Kind::kStart});
}

double Governor::ShortestWindow(const Group& group) {
  return group.longest_window < kLongestPeriod ? kShortestLossyWindow : kShortestWindow;
}

void Governor::PlanPeriod(Group& group) const {
  const double share = std::max(group.share, 1e-9);
  const double events = group.strays + ShortestWindow(group) * group.rate;
  const double least = cycle_cost_ + Cost(group, events);
  group.period = std::clamp(std::max(cycle_cost_ / kToggleShare, least) / share, kShortestPeriod,
                            kLongestPeriod);
}

double Governor::WindowSeconds(const Group& group) const {
  const double cost = std::max(Cost(group, group.rate), 1e-9);
  const double spend = group.share * group.period - cycle_cost_ - Cost(group, group.strays);
  const double shortest = ShortestWindow(group);
  // Up to now a storm may have been there for a moment only: its rate is not known.
  if (group.first_window) return shortest;
  const double longest = std::min(group.longest_window, kLongestWindowShare * group.period);
  return std::clamp(spend / cost, shortest, std::max(shortest, longest));
}

double Governor::ProbeSeconds(const Group& group) const {
  return std::clamp(WindowSeconds(group) * kProbeShare, kShortestProbe, kLongestProbe);
}

void Governor::PlanPause(Group& group, double now) {
  PlanPeriod(group);
  std::uniform_real_distribution<double> jitter(1 - kJitter, 1 + kJitter);
  const double probe = ProbeSeconds(group);
  const double pause = group.period - WindowSeconds(group) - probe;
  group.next_edge =
      std::max(now + std::max(pause, 0.0) * jitter(random_), group.opened + kShortestGap - probe);
}

void Governor::CheckWindows(double now, std::vector<Action>& actions) {
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Group& group = groups_[i];
    if (!group.sampled || now < group.next_edge) continue;
    if (!group.open && !group.probing) {
      group.probing = true;
      // Its plan may have changed in the pause.
      group.length = std::max(ProbeSeconds(group), group.opened + kShortestGap - now);
      group.next_edge = now + group.length;
      actions.push_back({i, Action::Kind::kProbe});
    } else if (!group.open) {
      group.probing = false;
      group.open = true;
      group.opened = now;
      group.length = WindowSeconds(group);
      group.next_edge = now + group.length;
      actions.push_back({i, Action::Kind::kOpen});
    } else if (MayBeExact(group, now)) {
      group.sampled = false;
      actions.push_back({i, Action::Kind::kStop});
    } else {
      group.open = false;
      ++cycles_;
      actions.push_back({i, Action::Kind::kClose});
    }
    windows_until_ = std::max(windows_until_, group.open || group.probing ? group.next_edge : now);
  }
}

bool Governor::MayBeExact(const Group& group, double now) const {
  const double needed =
      group.restless ? kRestlessCalmSeconds : kBackSeconds - 2 * group.period * (1 + kJitter);
  return group.calm_since > 0 && now - group.calm_since >= needed;
}

void Governor::Began(std::size_t index, double now) {
  groups_[index].next_edge = now + groups_[index].length;
}

void Governor::WindowEnded(std::size_t index, const Window& window) {
  Group& group = groups_[index];
  const double seen = static_cast<double>(window.events + window.lost) /
                      std::max(window.seconds, kShortestLossyWindow);
  const double rising = group.first_window ? 1 : kSmoothing;
  group.rate += (seen > group.rate ? rising : kFalling) * (seen - group.rate);
  group.first_window = false;
  Smooth(group.strays, static_cast<double>(window.strays));
  const auto lost = static_cast<double>(window.lost);
  if (lost > kLossShare * static_cast<double>(window.events + window.lost) && MayLose(group)) {
    group.lossy_rate = group.lossy_rate > 0 ? std::min(group.lossy_rate, seen) : seen;
    group.lossy_until = window.now + kLossesForgottenSeconds;
    group.lossy_window =
        group.lossy_window > 0 ? std::min(group.lossy_window, window.seconds) : window.seconds;
    group.longest_window = std::max(window.seconds / 2, kShortestLossyWindow);
  } else {
    const double longest =
        group.lossy_window > 0 ? group.lossy_window * kBelowLossyWindow : kLongestPeriod;
    group.longest_window = std::min(group.longest_window * 1.5, longest);
  }
  if (window.now > group.lossy_until) group.lossy_rate = group.lossy_window = 0;
  group.cost_ratio = window.cost_ratio;
  double pressure = Cost(group, seen) / std::max(group.allowance, 1e-9);
  if (group.lossy_rate > 0) pressure = std::max(pressure, seen / group.lossy_rate);
  if (pressure >= kBackBelow) {
    group.calm_since = 0;
  } else if (group.calm_since == 0) {
    group.calm_since = window.now;
  }
  if (!group.sampled) {  // it stays open: what came before the calm no longer counts
    group.rate = seen;
    return;
  }
  PlanPause(group, window.now);
}

double Governor::next_tick() const {
  return std::accumulate(groups_.begin(), groups_.end(), last_.now + kTickSeconds,
                         [](double next, const Group& group) {
                           return group.sampled ? std::min(next, group.next_edge) : next;
                         });
}

}  // namespace kmem
