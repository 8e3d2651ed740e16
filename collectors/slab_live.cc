#include "collectors/slab_live.h"

#include <algorithm>
#include <array>
#include <bit>
#include <new>
#include <string_view>
#include <utility>

#include "collectors/slab_live_queue.h"

namespace kmem {
namespace {

constexpr std::string_view kOther = "other";
constexpr std::array<std::string_view, SLAB_LIVE_REASONS> kReasons{"table_full", "pointer_reused",
                                                                   "free_unseen", "busy"};
constexpr std::array<std::string_view, SLAB_LIVE_AGES - 1> kAges{"60", "600", "3600"};
constexpr std::size_t kMaxNames = 16384;

std::uint64_t Weight(const Ledger::Values& counted) { return counted[0]; }

std::string_view ReasonOf(std::uint64_t left_out) {
  return left_out == SLAB_LIVE_EXCLUDED ? "excluded" : "freed_silently";
}

}  // namespace

SlabLiveBook::SlabLiveBook(SlabLiveOptions options, std::size_t max_series)
    : options_(std::move(options)),
      max_series_(max_series),
      ledger_({.max_series = max_series, .weight = &Weight}) {}

std::size_t SlabLiveBook::table_bytes() const {
  if (!options_.enabled) return 0;
  const std::size_t places = std::bit_ceil(options_.max_objects);
  return sizeof(slab_live) + places * sizeof(slab_live_object) +
         places / SLAB_LIVE_QUEUE_ONE_IN * sizeof(slab_live_event);
}

slab_live* SlabLiveBook::InitTable(std::byte* memory) const {
  auto* const live = reinterpret_cast<slab_live*>(memory);
  live->places = std::bit_ceil(options_.max_objects);
  live->most_hash = slab_live_most_hash(options_.sample_one_in);
  live->room = live->places / SLAB_LIVE_QUEUE_ONE_IN;
  live->objects = reinterpret_cast<slab_live_object*>(memory + sizeof *live);
  live->queue = reinterpret_cast<slab_live_event*>(live->objects + live->places);
  return live;
}

void SlabLiveBook::Settle(slab_live& live, Tallies& tallies, std::uint64_t settled_ns,
                          std::uint64_t now_ns) {
  if (any_to_exclude_.load(std::memory_order_relaxed)) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) {
      for (const std::uint64_t call_site : to_exclude_) slab_live_exclude(&live, call_site);
      to_exclude_.clear();
      any_to_exclude_ = false;
    }
  }
  SettleSlabLive(live, tallies, settled_ns);
  slab_live_tend(&live, settled_ns, now_ns);
}

void SlabLiveBook::Exclude(std::uint64_t call_site) {
  const std::scoped_lock lock(mutex_);
  if (std::ranges::count(to_exclude_, call_site) == 0) to_exclude_.push_back(call_site);
  any_to_exclude_ = true;
}

void SlabLiveBook::Read(const slab_live& live, std::vector<std::byte>& out) const {
  AppendLive(live, options_.tell_lasting, out);
}

void SlabLiveBook::Sum::Add(const SlabLiveSite& site) {
  objects += site.objects;
  lasting_objects += site.lasting_objects;
  lasting_bytes += site.lasting_bytes;
  std::uint64_t older = 0;
  for (std::size_t age = bytes.size(); age-- > 0;) {
    older += site.bytes.at(age);
    bytes.at(age) += older;
  }
}

void SlabLiveBook::Sum::Add(const Sum& sum) {
  objects += sum.objects;
  lasting_objects += sum.lasting_objects;
  lasting_bytes += sum.lasting_bytes;
  for (std::size_t age = 0; age < bytes.size(); ++age) bytes.at(age) += sum.bytes.at(age);
}

void SlabLiveBook::ForgetNames() {
  names_.clear();
  ledger_.ForgetKeys();
}

const std::optional<Ledger::Name>& SlabLiveBook::NameOf(std::uint64_t call_site,
                                                        const KernelFacts& facts) {
  const auto [at, is_new] = names_.try_emplace(call_site);
  if (is_new && facts.symbols != nullptr && facts.symbols->available()) {
    if (auto symbol = facts.symbols->Find(call_site)) {
      at->second.emplace(std::move(symbol->function), std::move(symbol->module));
    }
  }
  return at->second;
}

// Of what is alive there is no count that only grows, as the ledger wants it; of the bytes times
// the time that they are there is one.
TableEntry SlabLiveBook::Weigh(const SlabLiveSite& site, std::uint64_t elapsed_ms) {
  Account& account = accounts_[site.place];
  if (account.key != site.call_site || account.generation != site.generation) {
    account = {site.call_site, site.generation, 0};
  }
  std::uint64_t bytes = 0;
  for (const std::uint64_t aged : site.bytes) bytes += aged;
  // In KiB times milliseconds: with 100 GiB it lasts for years.
  account.weight +=
      static_cast<std::uint64_t>(static_cast<unsigned __int128>(bytes) * elapsed_ms >> 10);
  TableEntry entry{.place = site.place, .slot = {}};
  entry.slot.key = site.call_site;
  entry.slot.generation = site.generation;
  entry.slot.values[0] = account.weight;
  return entry;
}

void SlabLiveBook::Export(const SlabTables& tables, const State& state, const KernelFacts& facts,
                          Families& out) {
  if (names_.size() >= kMaxNames) ForgetNames();
  const std::uint64_t elapsed_ns = state.taken_at_ns - std::min(last_ns_, state.taken_at_ns);
  // Of the first look nobody knows the time; it is to weigh, too: about a second.
  const std::uint64_t elapsed_ms =
      last_ns_ == 0 ? 1024 : std::min<std::uint64_t>(elapsed_ns / 1'000'000, 3'600'000);
  last_ns_ = std::max({last_ns_, state.taken_at_ns, UINT64_C(1)});

  std::map<Ledger::Name, Sum> sums;
  Sum other;
  LeftOut left_out;
  std::vector<TableEntry> entries;
  for (const SlabLiveSite& site : tables.live_sites) {
    const std::optional<Ledger::Name>& name = NameOf(site.call_site, facts);
    const bool excluded = name && std::ranges::count(options_.exclude_call_sites, name->first) != 0;
    if (excluded && site.left_out != SLAB_LIVE_EXCLUDED) Exclude(site.call_site);
    if (excluded || site.left_out != SLAB_LIVE_SHOWN) {
      left_out[{name.value_or(Ledger::Name(kOther, "")),
                excluded ? std::uint64_t{SLAB_LIVE_EXCLUDED} : site.left_out}]++;
      continue;
    }
    (name ? sums[*name] : other).Add(site);
    entries.push_back(Weigh(site, elapsed_ms));
  }
  ledger_.Absorb(state.taken_at_ns, entries,
                 [&](const TableEntry& entry) { return NameOf(entry.slot.key, facts); });

  std::map<Ledger::Name, Sum> shown;
  for (const Ledger::Row& row : ledger_.Rows()) {
    auto at = sums.extract(row.name);
    shown[row.name] = at.empty() ? Sum{} : at.mapped();
  }
  for (const auto& [name, sum] : sums) other.Add(sum);
  ExportGauges(shown, other, out);
  ExportLeftOut(left_out, out);

  const SlabLiveTotals totals = tables.live.value_or(SlabLiveTotals{});
  FamilyBuilder dropped(
      out, FamilyBuilder::Type::Counter, "kmem_exporter_live_dropped_total",
      "What pairing could not follow. table_full: allocations and frees that found no place in the "
      "table; pointer_reused: objects whose pointer was allocated anew though no free of them was "
      "seen; free_unseen: objects of call sites that were recognised by that to free without an "
      "event; busy: operations that the kernel refused because the table was in use.");
  for (std::size_t i = 0; i < kReasons.size(); ++i) {
    dropped.Add({{"reason", kReasons.at(i)}}, static_cast<double>(totals.dropped.at(i)));
  }
  const bool complete = state.whole && totals.dropped[SLAB_LIVE_TABLE_FULL] == 0 &&
                        totals.dropped[SLAB_LIVE_BUSY] == 0 && totals.stale == 0;
  FamilyBuilder(out, FamilyBuilder::Type::Gauge, "kmem_exporter_live_complete",
                "Whether every allocation and free has been followed since the start: 0 once an "
                "event was lost or the table had no place, and while the kernel's table can't be "
                "read. An object whose free was lost then seems to be alive until its pointer is "
                "used again.")
      .Add({}, complete ? 1 : 0);
}

void SlabLiveBook::ExportFrees(const slab_live_frees& sum, const KernelFacts& facts,
                               Families& out) const {
  const auto counter = [&](std::string_view name, std::string_view help, std::uint64_t sampled) {
    FamilyBuilder(out, FamilyBuilder::Type::Counter, name, help)
        .Add({}, static_cast<double>(sampled * options_.sample_one_in));
  };
  counter("kmem_slab_same_cpu_frees_total",
          "Slab objects freed on the CPU that allocated them. Of the objects that are followed "
          "(one in collectors.slab.live.sample_one_in), times that.",
          sum.same_cpu);
  counter("kmem_slab_cross_cpu_frees_total",
          "Slab objects freed on another CPU than allocated them. Of the same objects. Frees whose "
          "allocation is not known for certain are in neither.",
          sum.cross_cpu);
  if (facts.HasSeveralNodes()) {
    counter("kmem_slab_cross_node_frees_total",
            "Those freed by a CPU of another NUMA node than that of the CPU that allocated them. "
            "Only where CPUs belong to several nodes.",
            sum.cross_node);
  }
}

void SlabLiveBook::ExportGauges(const std::map<Ledger::Name, Sum>& shown, const Sum& other,
                                Families& out) const {
  const auto value = [&](std::uint64_t sampled) {
    return static_cast<double>(sampled) * options_.sample_one_in;
  };
  const auto gauge = [&](std::string_view name, std::string_view help, auto value_of) {
    FamilyBuilder family(out, FamilyBuilder::Type::Gauge, name, help);
    for (const auto& [site, sum] : shown) {
      family.Add({{"call_site", site.first}, {"module", site.second}}, value(value_of(sum)));
    }
    family.Add({{"call_site", kOther}, {"module", ""}}, value(value_of(other)));
  };
  gauge("kmem_slab_callsite_live_bytes",
        "Bytes of the slab objects that the function has allocated since the start and of which no "
        "free was seen. Objects that are freed without an event (kfree_rcu, bulk frees) stay until "
        "their pointer is allocated again.",
        [](const Sum& sum) { return sum.bytes[0]; });
  gauge("kmem_slab_callsite_live_objects",
        "Slab objects that the function has allocated since the start and of which no free was "
        "seen.",
        [](const Sum& sum) { return sum.objects; });
  if (options_.tell_lasting) {
    gauge("kmem_slab_callsite_live_lasting_bytes",
          "Of the live bytes those that were allocated in the first half of the time since the "
          "start.",
          [](const Sum& sum) { return sum.lasting_bytes; });
    gauge("kmem_slab_callsite_live_lasting_objects",
          "Of the live objects those that were allocated in the first half of the time since the "
          "start.",
          [](const Sum& sum) { return sum.lasting_objects; });
  }
  FamilyBuilder aged(out, FamilyBuilder::Type::Gauge, "kmem_slab_callsite_live_aged_bytes",
                     "The live bytes that were allocated at least so many seconds ago; they may be "
                     "found out ten seconds late.");
  for (std::size_t age = 0; age < kAges.size(); ++age) {
    const std::string_view seconds = kAges.at(age);
    for (const auto& [name, sum] : shown) {
      aged.Add({{"call_site", name.first}, {"module", name.second}, {"min_age_seconds", seconds}},
               value(sum.bytes.at(age + 1)));
    }
    aged.Add({{"call_site", kOther}, {"module", ""}, {"min_age_seconds", seconds}},
             value(other.bytes.at(age + 1)));
  }
}

void SlabLiveBook::ExportLeftOut(const LeftOut& left_out, Families& out) const {
  std::map<std::uint64_t, std::uint64_t> other{{SLAB_LIVE_SILENT, 0}, {SLAB_LIVE_EXCLUDED, 0}};
  FamilyBuilder family(
      out, FamilyBuilder::Type::Gauge, "kmem_exporter_live_left_out_call_sites",
      "Calls of the function whose objects are not followed and in no gauge of live memory. "
      "freed_silently: their pointers came back so often without a free that they must be freed "
      "without an event; excluded: by the configuration.");
  std::size_t series = 0;
  for (const auto& [which, sites] : left_out) {
    const auto& [name, reason] = which;
    if (name.first == kOther || series >= max_series_) {
      other[reason] += sites;
      continue;
    }
    ++series;
    family.Add({{"call_site", name.first}, {"module", name.second}, {"reason", ReasonOf(reason)}},
               static_cast<double>(sites));
  }
  for (const auto& [reason, sites] : other) {
    family.Add({{"call_site", kOther}, {"module", ""}, {"reason", ReasonOf(reason)}},
               static_cast<double>(sites));
  }
}

}  // namespace kmem
