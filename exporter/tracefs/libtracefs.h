/*
 * What is used of libtracefs, as C that C++ can include: the header of libtracefs 1.6.4 (Debian 12)
 * is not valid C++. Only instance.cc includes this. Errors are told through errno.
 */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

struct tracefs_instance;

/* Makes the instance below `tracing_dir`. NULL with errno EEXIST if one of that name exists. */
struct tracefs_instance* kmem_instance_create(const char* tracing_dir, const char* name);
void kmem_instance_free(struct tracefs_instance* instance); /* the handle, not the instance */

/* 0, or -1. */
int kmem_instance_disable_on_free(struct tracefs_instance* instance);
int kmem_event_enable(struct tracefs_instance* instance, const char* system, const char* event);
int kmem_events_disable(struct tracefs_instance* instance);
int kmem_file_write(struct tracefs_instance* instance, const char* file, const char* text);

int kmem_file_exists(struct tracefs_instance* instance, const char* file);
/* A descriptor, or -1. */
int kmem_file_open(struct tracefs_instance* instance, const char* file, int flags);

#ifdef __cplusplus
}
#endif
