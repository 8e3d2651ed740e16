// Attaches the programs of empty_programs.bpf.c until its input ends. Nothing is pinned: however
// this process ends, the kernel detaches them.
// usage: empty_programs OBJECT tp_btf|raw_tp EVENT...
// Prints "attached", or why that is not possible.
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char reason[512];  // the first thing that libbpf complained about

static int keep(enum libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_WARN && !*reason) vsnprintf(reason, sizeof reason, format, arguments);
  return 0;
}

static int fail(const char* what) {
  const char* error = strerror(errno);
  reason[strcspn(reason, "\n")] = 0;
  fprintf(stderr, "%s: %s%s%s\n", what, error, *reason ? ": " : "", reason);
  return 1;
}

static int is_wanted(const struct bpf_program* program, int argc, char** argv) {
  const char* section = bpf_program__section_name(program);
  size_t type = strlen(argv[2]);
  if (strncmp(section, argv[2], type) || section[type] != '/') return 0;
  for (int i = 3; i < argc; i++)
    if (!strcmp(section + type + 1, argv[i])) return 1;
  return 0;
}

int main(int argc, char** argv) {
  struct bpf_program* program;
  if (argc < 4) {
    fprintf(stderr, "usage: empty_programs OBJECT tp_btf|raw_tp EVENT...\n");
    return 2;
  }
  libbpf_set_print(keep);
  struct bpf_object* object = bpf_object__open_file(argv[1], NULL);
  if (!object) return fail("cannot open the programs");
  bpf_object__for_each_program(program, object)
      bpf_program__set_autoload(program, is_wanted(program, argc, argv));
  if (bpf_object__load(object)) return fail("cannot load the programs");
  int attached = 0;
  bpf_object__for_each_program(program, object) {
    if (!is_wanted(program, argc, argv)) continue;
    if (!bpf_program__attach(program)) return fail("cannot attach a program");
    attached++;
  }
  if (attached != argc - 3) {
    fprintf(stderr, "there is no program for some of the events\n");
    return 1;
  }
  puts("attached");
  fflush(stdout);
  while (getchar() != EOF) {
  }
  return 0;
}
