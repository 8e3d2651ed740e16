// What a report is put together from: how its parts are read from the families. Pure functions; any
// thread.
#pragma once

#include <optional>
#include <string>

#include "exporter/report/interval.h"
#include "exporter/report/report.h"

namespace kmem {

// The number that a label's value is, if it is one.
std::optional<double> Number(const std::string& text);

// Without those that are 0.
Counts NonZero(Counts counts);

std::optional<Slab> ReadSlab(const Interval& interval);

}  // namespace kmem
