/*
 * What is used of libtracecmd, as C that C++ can include: its header includes that of libtracefs
 * 1.6.4 (Debian 12), which is not valid C++. Only trace_file.cc includes this.
 */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

struct tracecmd_input;
struct tep_handle;
struct tep_record;

/* NULL if libtracecmd can't read it. Its messages are switched off. */
struct tracecmd_input* kmem_trace_open(const char* path);
void kmem_trace_close(struct tracecmd_input* file);

/* The formats of the events in it; lives as long as the file. */
struct tep_handle* kmem_trace_formats(struct tracecmd_input* file);
int kmem_trace_cpus(struct tracecmd_input* file);

/* The CPU's next sub-buffer, in the order they were written; NULL behind the last. `place` says
 * which is next: NULL at first, and it is NULL again at the end. Before that it has to be left by
 * kmem_trace_leave(). A page stays until the CPU's next. */
const void* kmem_trace_next_page(struct tracecmd_input* file, int cpu, unsigned int page_size,
                                 struct tep_record** place);
void kmem_trace_leave(struct tep_record* place);

#ifdef __cplusplus
}
#endif
