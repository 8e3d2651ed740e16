#include "exporter/governor.h"

#include <algorithm>
#include <numeric>

namespace kmem {
namespace {

constexpr double kTickSeconds = 1.0;
// Of the budget that is planned to be spent: estimates err.
constexpr double kAim = 0.85;
// Of what is there that a group may take and be exact, while others come after it.
constexpr double kMostOfWhatIsThere = 0.9;
constexpr double kBackBelow = 0.7;
constexpr double kFarOver = 3;
constexpr double kMostPressure = 8;
constexpr double kSmoothing = 0.5;
constexpr double kCalmSeconds = 6;
constexpr double kLongCalmSeconds = 12;
// So soon after it became exact a group that is over its share again comes and goes.
constexpr double kSoonSeconds = 300;
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
constexpr double kLossesForgottenSeconds = 600;
// With fewer events the reader's cost is that of waking up.
constexpr double kEventsToLearnFrom = 10'000;

void Smooth(double& value, double now) { value += kSmoothing * (now - value); }

}  // namespace

Governor::Governor(const Options& options, const std::vector<Sampling>& groups)
    : options_(options), random_(options.seed) {
  for (const Sampling sampling : groups) {
    Group group;
    group.sampling = sampling;
    group.calm_needed = kCalmSeconds;
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
    auto events = static_cast<double>(reading.other_events - last_.other_events);
    const double elsewhere = events / elapsed * CostPerEvent();
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const auto seen = static_cast<double>(reading.events[i] - last_.events[i]);
      events += seen;
      if (!groups_[i].sampled) Smooth(groups_[i].rate, seen / elapsed);
    }
    LearnReaderCost(reading.reader_seconds - last_.reader_seconds, events);
    if (cycles_ >= 2) {
      Smooth(cycle_cost_, (reading.toggle_seconds - toggle_seen_) / static_cast<double>(cycles_));
      toggle_seen_ = reading.toggle_seconds;
      cycles_ = 0;
    }
    Smooth(spent_elsewhere_, elsewhere);
    ShareBudget(spent_elsewhere_);
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
void Governor::ShareBudget(double spent_elsewhere) {
  const auto cost = [this](const Group& group) { return Cost(group, group.rate); };
  double left = options_.budget * kAim - spent_elsewhere;
  std::vector<Group*> order;
  for (Group& group : groups_) {
    if (group.sampling == Sampling::kNever) {
      left -= cost(group);
    } else {
      order.push_back(&group);
    }
  }
  left = std::max(left, 0.0);
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
// windows show the losses.
void Governor::ActOnLosses(double lost_share, double now, std::vector<Action>& actions) {
  if (lost_share < kLossShare) return;
  std::size_t dearest = groups_.size();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].sampling == Sampling::kNever) continue;
    if (dearest == groups_.size() || groups_[i].rate > groups_[dearest].rate) dearest = i;
  }
  if (dearest == groups_.size() || groups_[dearest].sampled) return;
  groups_[dearest].lossy_rate = groups_[dearest].rate;
  groups_[dearest].lossy_until = now + kLossesForgottenSeconds;
  StartSampling(dearest, now, actions);
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
  const bool soon = group.exact_since >= 0 && now - group.exact_since < kSoonSeconds;
  group.calm_needed = soon ? kLongCalmSeconds : kCalmSeconds;
  group.sampled = true;
  group.open = false;
  group.ticks_over = 0;
  group.calm_since = 0;
  group.pressure = kMostPressure;
  group.probing = false;
  PlanPause(group, now);
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
  const double longest = std::min(group.longest_window, kLongestWindowShare * group.period);
  return std::clamp(spend / cost, shortest, std::max(shortest, longest));
}

double Governor::ProbeSeconds(const Group& group) const {
  return std::clamp(WindowSeconds(group) * kProbeShare, kShortestProbe, kLongestProbe);
}

void Governor::PlanPause(Group& group, double now) {
  PlanPeriod(group);
  std::uniform_real_distribution<double> jitter(1 - kJitter, 1 + kJitter);
  const double pause = group.period - WindowSeconds(group) - ProbeSeconds(group);
  group.next_edge = now + std::max(pause, 0.0) * jitter(random_);
}

void Governor::CheckWindows(double now, std::vector<Action>& actions) {
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Group& group = groups_[i];
    if (!group.sampled || now < group.next_edge) continue;
    if (!group.open && !group.probing) {
      group.probing = true;
      group.length = ProbeSeconds(group);
      group.next_edge = now + group.length;
      actions.push_back({i, Action::Kind::kProbe});
    } else if (!group.open) {
      group.probing = false;
      group.open = true;
      group.length = WindowSeconds(group);
      group.next_edge = now + group.length;
      actions.push_back({i, Action::Kind::kOpen});
    } else if (MayBeExact(group, now)) {
      group.sampled = false;
      group.exact_since = now;
      actions.push_back({i, Action::Kind::kStop});
    } else {
      group.open = false;
      ++cycles_;
      actions.push_back({i, Action::Kind::kClose});
    }
  }
}

bool Governor::MayBeExact(const Group& group, double now) const {
  return group.calm_since > 0 && now - group.calm_since >= group.calm_needed;
}

void Governor::Began(std::size_t index, double now) {
  groups_[index].next_edge = now + groups_[index].length;
}

void Governor::WindowEnded(std::size_t index, const Window& window) {
  Group& group = groups_[index];
  const double seen = static_cast<double>(window.events + window.lost) /
                      std::max(window.seconds, kShortestLossyWindow);
  Smooth(group.rate, seen);
  Smooth(group.strays, static_cast<double>(window.strays));
  const auto lost = static_cast<double>(window.lost);
  if (lost > kLossShare * static_cast<double>(window.events + window.lost)) {
    group.lossy_rate = group.lossy_rate > 0 ? std::min(group.lossy_rate, seen) : seen;
    group.lossy_until = window.now + kLossesForgottenSeconds;
    group.longest_window = std::max(window.seconds / 2, kShortestLossyWindow);
  } else {
    group.longest_window = std::min(group.longest_window * 1.5, kLongestPeriod);
  }
  if (window.now > group.lossy_until) group.lossy_rate = 0;
  group.cost_ratio = window.cost_ratio;
  double pressure = Cost(group, seen) / std::max(group.allowance, 1e-9);
  if (group.lossy_rate > 0) pressure = std::max(pressure, seen / group.lossy_rate);
  Smooth(group.pressure, std::min(pressure, kMostPressure));
  if (std::max(pressure, group.pressure) >= kBackBelow) {
    group.calm_since = 0;
  } else if (group.calm_since == 0) {
    group.calm_since = window.now;
  }
  if (!group.sampled) {  // it stays open: what came before the calm no longer counts
    group.rate = seen;
    group.cost_ratio = 1;
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
