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

/* NULL if libtracecmd can't read it. Its messages are switched off. */
struct tracecmd_input* kmem_trace_open(const char* path);
void kmem_trace_close(struct tracecmd_input* file);

/* The formats of the events in it; lives as long as the file. */
struct tep_handle* kmem_trace_formats(struct tracecmd_input* file);
int kmem_trace_cpus(struct tracecmd_input* file);

/* Calls `use` for each sub-buffer of the CPU, in the order they were written. */
void kmem_trace_pages(struct tracecmd_input* file, int cpu, unsigned int page_size,
                      void (*use)(void* context, const void* page), void* context);

#ifdef __cplusplus
}
#endif
