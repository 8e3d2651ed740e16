#include "exporter/replay/libtracecmd.h"

#include <event-parse.h>
#include <trace-cmd.h>

/* Exported by libtracecmd (3.1.6 and 3.3, lib/trace-cmd/trace-input.c) for trace-cmd itself, and
 * missing from its public header: the sub-buffer that a record lies in. */
void* tracecmd_record_page(struct tracecmd_input* handle, struct tep_record* record);

struct tracecmd_input* kmem_trace_open(const char* path) {
  tracecmd_set_loglevel(TEP_LOG_NONE);
  tep_set_loglevel(TEP_LOG_NONE);
  return tracecmd_open(path, 0);
}

void kmem_trace_close(struct tracecmd_input* file) { tracecmd_close(file); }

struct tep_handle* kmem_trace_formats(struct tracecmd_input* file) {
  return tracecmd_get_tep(file);
}

int kmem_trace_cpus(struct tracecmd_input* file) { return tep_get_cpus(tracecmd_get_tep(file)); }

const void* kmem_trace_next_page(struct tracecmd_input* file, int cpu, unsigned int page_size,
                                 struct tep_record** place) {
  /* Sub-buffers lie aligned in the file: trace-cmd.dat(5). */
  const unsigned long long mask = ~(unsigned long long)(page_size - 1);
  struct tep_record* record = *place;
  const unsigned long long page = record ? record->offset & mask : ~0ULL;
  do {
    struct tep_record* const old = record;
    if (old) tracecmd_free_record(old);
    record = old ? tracecmd_read_data(file, cpu) : tracecmd_read_cpu_first(file, cpu);
  } while (record && (record->offset & mask) == page);
  *place = record;
  return record ? tracecmd_record_page(file, record) : NULL;
}

void kmem_trace_leave(struct tep_record* place) { tracecmd_free_record(place); }
