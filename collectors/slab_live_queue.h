// The queue of slab_live_tally.h: events that wait until those of all CPUs are there. Used by the
// thread that owns the table; nothing here allocates.
#pragma once

#include <cstdint>

#include "collectors/collector.h"
#include "collectors/slab_live_tally.h"

namespace kmem {

// Applies the queue's events before `settled_ns` in the order of their times, those of one instant
// in the order of their CPUs, and counts frees whose allocation is known into the tallies
// (slab_tally) of the CPUs that freed. Every event before `settled_ns` has been noted.
void SettleSlabLive(slab_live& live, Tallies& tallies, std::uint64_t settled_ns);

// Events have passed unseen: applies what waits, whatever its time, and pairs neither that nor what
// is alive by now with a free.
void ForgetSlabLive(slab_live& live);

}  // namespace kmem
