// A report as JSON (RFC 8259) for programs; docs/report.md says what its members are. All rows, not
// only the first ones; null is what was not counted.
#pragma once

#include <string>

#include "exporter/report/report.h"

namespace kmem {

std::string ReportJson(const Report& report);

}  // namespace kmem
