// A load that makes kmem events fire, on one CPU, timed in rounds.
// usage: load slab|fault CPU ROUND_MS
//   slab    pipe2, close, close
//   fault   mmap of 64 small pages, a touch of each, munmap
// Prints "ready". Then each line of its input is a number of rounds to run, which it answers with a
// line of three numbers per round: how many loops it had, how many ns they took, and in how many of
// these ns the load was kept off its CPU by others.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { page_size = 4096, pages = 64, rounds_max = 4096 };

struct load {
  const char* name;
  void (*loop)(void);
  int loops_per_look;  // at the clock, which is not to be noticed
};

struct round {
  uint64_t loops, ns, waited_ns;
};

static int schedstat;

static void die(const char* what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

// The second number of schedstat: for how long we could have run and did not. Unlike CPU time,
// wall time less this holds all that the kernel does on our time, whatever it is configured to
// account to whom.
static uint64_t waited_ns(void) {
  char text[128];
  ssize_t got = pread(schedstat, text, sizeof text - 1, 0);
  if (got <= 0) die("/proc/thread-self/schedstat");
  text[got] = 0;
  const char* second = strchr(text, ' ');
  return second ? strtoull(second, NULL, 10) : 0;
}

static void slab(void) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) die("pipe2");
  close(ends[0]);
  close(ends[1]);
}

static void fault(void) {
  size_t size = (size_t)pages * page_size;
  char* area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) die("mmap");
  for (size_t at = 0; at < size; at += page_size) *(volatile char*)(area + at) = 1;
  munmap(area, size);
}

static void run(const struct load* load, struct round* round, uint64_t length_ns) {
  uint64_t waited = waited_ns(), begin = now_ns();
  round->loops = 0;
  do {
    for (int i = 0; i < load->loops_per_look; i++) load->loop();
    round->loops += (uint64_t)load->loops_per_look;
    round->ns = now_ns() - begin;
  } while (round->ns < length_ns);
  round->waited_ns = waited_ns() - waited;
}

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set)) die("sched_setaffinity");
}

static void answer(const struct round* rounds, int count) {
  for (int i = 0; i < count; i++)
    printf("%s%llu %llu %llu", i ? " " : "", (unsigned long long)rounds[i].loops,
           (unsigned long long)rounds[i].ns, (unsigned long long)rounds[i].waited_ns);
  putchar('\n');
  fflush(stdout);
}

int main(int argc, char** argv) {
  static const struct load loads[] = {{"slab", slab, 20}, {"fault", fault, 2}};
  static struct round rounds[rounds_max];
  const struct load* load = NULL;
  char line[32];
  for (size_t i = 0; argc == 4 && i < sizeof loads / sizeof *loads; i++)
    if (!strcmp(argv[1], loads[i].name)) load = &loads[i];
  if (!load) {
    fprintf(stderr, "usage: load slab|fault CPU ROUND_MS\n");
    return 2;
  }
  uint64_t length_ns = strtoull(argv[3], NULL, 10) * 1000000;
  if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)) die("PR_SET_THP_DISABLE");
  pin(atoi(argv[2]));
  schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (schedstat < 0) die("/proc/thread-self/schedstat");
  memset(rounds, 1, sizeof rounds);  // all memory is taken beforehand
  run(load, rounds, length_ns);
  puts("ready");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    int count = atoi(line) < rounds_max ? atoi(line) : rounds_max;
    for (int i = 0; i < count; i++) run(load, &rounds[i], length_ns);
    answer(rounds, count);
  }
  return 0;
}
