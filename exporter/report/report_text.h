// A report as plain text for people, in aligned columns; what a number means stands beside it.
#pragma once

#include <string>

#include "exporter/report/report.h"

namespace kmem {

std::string ReportText(const Report& report);

// Its sections, in their order.
std::string SlabText(const Report& report);
std::string PagesText(const Report& report);
std::string ZoneLockText(const Report& report);
std::string PerCpuText(const Report& report);
std::string FragmentationText(const Report& report);

}  // namespace kmem
