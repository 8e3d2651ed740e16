#include "exporter/tracefs/libtracefs.h"

#include <errno.h>
#include <tracefs.h>

struct tracefs_instance* kmem_instance_create(const char* tracing_dir, const char* name) {
  errno = 0;
  /* Else libtracefs would search for a tracefs, and mount one where there is none. The argument is
   * not written to (libtracefs 1.6.4 and 1.8.1, tracefs-utils.c). */
  if (tracefs_set_tracing_dir((char*)tracing_dir) != 0) return NULL;
  struct tracefs_instance* instance = tracefs_instance_create(name);
  if (instance != NULL && !tracefs_instance_is_new(instance)) {
    tracefs_instance_free(instance);
    errno = EEXIST;
    return NULL;
  }
  return instance;
}

void kmem_instance_free(struct tracefs_instance* instance) { tracefs_instance_free(instance); }

int kmem_instance_disable_on_free(struct tracefs_instance* instance) {
  errno = 0;
  return tracefs_option_enable(instance, TRACEFS_OPTION_DISABLE_ON_FREE);
}

int kmem_event_enable(struct tracefs_instance* instance, const char* system, const char* event) {
  errno = 0;
  return tracefs_event_enable(instance, system, event);
}

int kmem_events_disable(struct tracefs_instance* instance) {
  errno = 0;
  return tracefs_event_disable(instance, NULL, NULL);
}

int kmem_file_write(struct tracefs_instance* instance, const char* file, const char* text) {
  errno = 0;
  return tracefs_instance_file_write(instance, file, text) < 0 ? -1 : 0;
}

int kmem_file_exists(struct tracefs_instance* instance, const char* file) {
  return tracefs_file_exists(instance, file);
}

int kmem_file_open(struct tracefs_instance* instance, const char* file, int flags) {
  errno = 0;
  return tracefs_instance_file_open(instance, file, flags);
}
