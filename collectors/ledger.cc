#include "collectors/ledger.h"

#include <algorithm>
#include <numeric>

namespace kmem {

std::uint64_t Ledger::Account::HourWeight() const {
  return std::accumulate(hour.begin(), hour.end(), std::uint64_t{0});
}

void Ledger::Absorb(std::uint64_t now_ns, std::span<const TableEntry> entries,
                    const std::function<std::optional<Name>(const TableEntry&)>& name_of) {
  if (!first_ && now_ns < last_ns_) return;
  if (first_) window_from_ns_ = part_from_ns_ = now_ns;
  last_ns_ = now_ns;
  TurnHour(now_ns);
  if (accounts_.size() >= kMaxAccounts) MakeRoom();

  std::vector<std::pair<std::uint32_t, Values>> counted;  // by account
  counted.reserve(entries.size());
  for (const TableEntry& entry : entries) {
    const Values values = NewlyCounted(entry);
    if (std::ranges::all_of(values, [](std::uint64_t value) { return value == 0; })) continue;
    const std::uint32_t account = AccountOf(entry, name_of);
    if (account == kNobody) continue;
    const std::uint64_t weight = options_.weight(values);
    accounts_[account].window_weight += weight;
    accounts_[account].hour[part_] += weight;
    counted.emplace_back(account, values);
  }
  if (first_ || now_ns - window_from_ns_ >= kWindowNs) CloseWindow(now_ns);
  for (const auto& [account, values] : counted) {
    if (!accounts_[account].shown) continue;
    AddTo(accounts_[account].values, values);
    AddTo(credited_, values);
  }
  first_ = false;
}

// What an entry counted since it was seen last.
Ledger::Values Ledger::NewlyCounted(const TableEntry& entry) {
  Values now{};
  std::copy_n(static_cast<const std::uint64_t*>(entry.slot.values), now.size(), now.begin());
  const auto [at, is_new] =
      seen_.try_emplace(entry.place, Seen{entry.slot.key, entry.slot.generation, Values{}});
  Seen& seen = at->second;
  if (seen.key != entry.slot.key || seen.generation != entry.slot.generation) {
    seen = {entry.slot.key, entry.slot.generation, Values{}};
  }
  const std::size_t counts = now.size() - (options_.merge_last != nullptr ? 1 : 0);
  Values counted{};
  for (std::size_t i = 0; i < counts; ++i) {
    counted[i] = now[i] - std::min(now[i], seen.values[i]);
    seen.values[i] = std::max(now[i], seen.values[i]);
  }
  if (options_.merge_last != nullptr && counted[0] != 0) counted.back() = now.back();
  return counted;
}

std::uint32_t Ledger::AccountOf(
    const TableEntry& entry, const std::function<std::optional<Name>(const TableEntry&)>& name_of) {
  if (const auto known = account_of_key_.find(entry.slot.key); known != account_of_key_.end()) {
    return known->second;
  }
  std::optional<Name> name = name_of(entry);
  const std::uint32_t account = name ? AddAccount(*std::move(name)) : kNobody;
  if (account_of_key_.size() >= 4 * kMaxAccounts) account_of_key_.clear();
  account_of_key_.emplace(entry.slot.key, account);
  return account;
}

std::uint32_t Ledger::AddAccount(Name name) {
  const auto next = static_cast<std::uint32_t>(accounts_.size());
  if (const auto known = account_of_name_.find(name); known != account_of_name_.end()) {
    return known->second;
  }
  if (accounts_.size() >= kMaxAccounts) return kNobody;
  account_of_name_.emplace(name, next);
  accounts_.emplace_back().name = std::move(name);
  return next;
}

void Ledger::AddTo(Values& to, const Values& counted) const {
  const std::size_t counts = to.size() - (options_.merge_last != nullptr ? 1 : 0);
  for (std::size_t i = 0; i < counts; ++i) to[i] += counted[i];
  if (options_.merge_last != nullptr) to.back() = options_.merge_last(to.back(), counted.back());
}

void Ledger::TurnHour(std::uint64_t now_ns) {
  for (std::size_t turned = 0; now_ns - part_from_ns_ >= kPartNs; ++turned) {
    if (turned >= kHourParts) {  // all forgotten already
      part_from_ns_ = now_ns;
      break;
    }
    part_from_ns_ += kPartNs;
    part_ = (part_ + 1) % kHourParts;
    for (Account& account : accounts_) account.hour[part_] = 0;
  }
}

void Ledger::CloseWindow(std::uint64_t now_ns) {
  std::uint64_t total = 0;
  for (const Account& account : accounts_) total += account.window_weight;
  if (total != 0) {
    if (shown_ < options_.max_series) AdmitToFreePlaces(total);
    if (shown_ == options_.max_series) ReplaceTheLightest(now_ns - window_from_ns_, total);
  }
  for (Account& account : accounts_) account.window_weight = 0;
  window_from_ns_ = now_ns;
}

void Ledger::AdmitToFreePlaces(std::uint64_t window_weight) {
  std::vector<Account*> candidates;
  for (Account& account : accounts_) {
    if (!account.shown && account.window_weight > window_weight / 1000) {
      candidates.push_back(&account);
    }
  }
  std::ranges::sort(candidates, [](const Account* a, const Account* b) {
    return a->window_weight != b->window_weight ? a->window_weight > b->window_weight
                                                : a->name < b->name;
  });
  for (Account* account : candidates) {
    if (shown_ == options_.max_series) break;
    Show(*account);
  }
}

void Ledger::ReplaceTheLightest(std::uint64_t window_ns, std::uint64_t window_weight) {
  const std::uint64_t enough = window_weight / (2 * options_.max_series) + 1;
  for (Account& account : accounts_) {
    if (account.shown || account.window_weight < enough) {
      account.held_ns = 0;
      continue;
    }
    account.held_ns += std::min(window_ns, kWindowCountsNs);
    if (account.held_ns < kHoldNs || accounts_shown_once_ >= kMaxAccounts / 2) continue;
    Account* lightest = nullptr;
    for (Account& shown : accounts_) {
      if (shown.shown && (lightest == nullptr || shown.HourWeight() < lightest->HourWeight())) {
        lightest = &shown;
      }
    }
    if (lightest == nullptr || account.HourWeight() / 5 * 4 <= lightest->HourWeight()) {
      continue;
    }
    lightest->shown = false;
    --shown_;
    Show(account);
  }
}

void Ledger::Show(Account& account) {
  account.shown = true;
  account.held_ns = 0;
  ++shown_;
  if (!account.shown_once) ++accounts_shown_once_;
  account.shown_once = true;
}

// Forgets the lighter half of the names that never had a series.
void Ledger::MakeRoom() {
  std::vector<std::uint64_t> weights;
  for (const Account& account : accounts_) {
    if (!account.shown_once) weights.push_back(account.HourWeight());
  }
  if (weights.empty()) return;
  const auto middle = weights.begin() + static_cast<std::ptrdiff_t>(weights.size() / 2);
  std::ranges::nth_element(weights, middle);
  const std::uint64_t limit = *middle;
  std::erase_if(accounts_, [&](const Account& account) {
    return !account.shown_once && account.HourWeight() <= limit;
  });
  account_of_key_.clear();
  account_of_name_.clear();
  for (std::uint32_t i = 0; i < accounts_.size(); ++i) account_of_name_[accounts_[i].name] = i;
}

std::vector<Ledger::Row> Ledger::Rows() const {
  std::vector<Row> rows;
  for (const Account& account : accounts_) {
    if (account.shown) rows.push_back({account.name, account.values});
  }
  std::ranges::sort(rows, [](const Row& a, const Row& b) { return a.name < b.name; });
  return rows;
}

std::size_t Ledger::folded() const {
  return static_cast<std::size_t>(std::ranges::count_if(accounts_, [](const Account& account) {
    return !account.shown && account.HourWeight() != 0;
  }));
}

}  // namespace kmem
