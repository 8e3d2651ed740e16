// Short bounded loads that make the kmem tracepoints fire.
// usage: workload pipes|sockets|anon|crosscpu|crosspipes|frag|toolarge [COUNT]
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { page_size_max = 64 << 10 };
static size_t page_size;
static size_t table_reach;  // the memory of which one page of page table tells

static void die(const char* what) {
  perror(what);
  exit(1);
}

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set)) die("sched_setaffinity");
}

static char* map(size_t size, int flags) {
  char* area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (area == MAP_FAILED) die("mmap");
  return area;
}

static void touch(char* area, size_t size) {
  for (size_t at = 0; at < size; at += page_size) area[at] = 1;
}

// A pipe's ring is a kmalloc of 40 bytes per page of the pipe's size.
static void pipes(int count) {
  static char data[page_size_max];
  for (int i = 0; i < count; i++) {
    int ends[2];
    if (pipe(ends)) die("pipe");
    fcntl(ends[1], F_SETPIPE_SZ, page_size << i % 9);
    if (write(ends[1], data, 1 + i * 97 % page_size) < 0) die("write");
    close(ends[0]);
    close(ends[1]);
  }
}

// Large messages ask for pages of order 3 without reclaim first: where memory
// is fragmented, that allocation fails. All of them stay queued to the end.
static void sockets(int count) {
  static char data[64 << 10];
  for (int i = 0; i < count; i++) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) die("socketpair");
    if (write(ends[0], data, 1 << i % 17) < 0) die("write");
  }
}

static void anon(int pages) {
  size_t size = (size_t)pages * page_size;
  char* area = map(size, 0);
  touch(area, size);
  munmap(area, size);
}

// Fills the lists of one CPU and, by freeing there, those of the other.
static void crosscpu(int pages) {
  size_t size = (size_t)pages * page_size;
  pin(0);
  char* area = map(size, 0);
  touch(area, size);
  pin(1);
  munmap(area, size);
}

// Slab objects of CPU 0 that the other one frees: of each pipe what it is and its ring, and more.
static void crosspipes(int count) {
  int(*ends)[2] = calloc((size_t)count, sizeof *ends);
  if (!ends) die("calloc");
  pin(0);
  for (int i = 0; i < count; i++)
    if (pipe(ends[i])) die("pipe");
  pin(1);
  for (int i = 0; i < count; i++) {
    close(ends[i][0]);
    close(ends[i][1]);
  }
  free(ends);
}

// Whether there is a zone DMA32. Then all here comes from it and not from the
// zone DMA, of 15 MiB; arm64 has but the zone DMA.
static int has_dma32(void) {
  char line[256];
  int found = 0;
  FILE* file = fopen("/proc/zoneinfo", "r");
  if (!file) die("/proc/zoneinfo");
  while (fgets(line, sizeof line, file)) {
    char* present = strstr(line, "present ");
    static int in_dma32;
    if (strstr(line, "zone ")) in_dma32 = strstr(line, " DMA32") != NULL;
    if (in_dma32 && present) found = atol(present + strlen("present ")) > 0;
  }
  fclose(file);
  return found;
}

// Whether that zone has a free block of 8 pages which is not reserved.
static int has_large_block(const char* zone) {
  char line[256];
  int found = 0;
  FILE* file = fopen("/proc/pagetypeinfo", "r");
  if (!file) die("/proc/pagetypeinfo");
  while (fgets(line, sizeof line, file)) {
    char* counts = strstr(line, "able ");
    if (!counts || !strstr(line, zone)) continue;
    counts += strlen("able ");
    for (int order = 0; order <= 10; order++) {
      long blocks = strtol(counts, &counts, 10);
      found |= order >= 3 && blocks > 0;
    }
  }
  fclose(file);
  return found;
}

// Page tables, which are not movable. Reading maps the one page of zeros.
static void tables(int count) {
  size_t size = (size_t)count * table_reach;
  volatile char* area = map(size, MAP_NORESERVE);
  for (size_t at = 0; at < size; at += table_reach) (void)area[at];
}

static void use_up(const char* zone) {
  for (int i = 0; i < 90 && has_large_block(zone); i++) tables(8);
}

// Fragments memory: fills it with movable pages, frees seven in 512 KiB (enough for
// an order of 2, without which the OOM killer comes, not for 3), and uses up the
// large blocks that are left. Holds that until its input ends. Each line of the
// input makes COUNT page tables, which have to fall back on movable blocks;
// with a u in it, it first uses up what has become free. A line of output says
// that a step is done.
static void frag(int count) {
  int dma32 = has_dma32();
  const char* zone = dma32 ? "zone    DMA32, type" : "zone      DMA, type";
  size_t leave = 768 * page_size + (dma32 ? 15 << 20 : 0);
  size_t chunk = 512 << 10;
  size_t used = 0;
  char* area = map((size_t)sysconf(_SC_PHYS_PAGES) * page_size, MAP_NORESERVE);
  for (; (size_t)sysconf(_SC_AVPHYS_PAGES) * page_size > leave; used += chunk)
    touch(area + used, chunk);
  for (size_t at = 0; at < used; at += chunk) madvise(area + at, 7 * page_size, MADV_DONTNEED);
  use_up(zone);
  setlinebuf(stdout);
  puts("fragmented");
  for (int c; (c = getchar()) != EOF;) {
    if (c == 'u') {
      use_up(zone);
    } else if (c == '\n') {
      tables(count);
      puts("done");
    }
  }
}

// A pipe ring above the largest kmalloc: fires kmalloc with a null pointer.
// Where pages are larger than 4 KiB none is.
static void toolarge(int count) {
  int ends[2];
  if (pipe(ends)) die("pipe");
  for (int i = 0; i < count; i++)
    if (fcntl(ends[1], F_SETPIPE_SZ, 1 << 30) >= 0) die("the ring should not have been allocated");
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(int);
  } modes[] = {{"pipes", pipes},       {"sockets", sockets},       {"anon", anon},
               {"crosscpu", crosscpu}, {"crosspipes", crosspipes}, {"frag", frag},
               {"toolarge", toolarge}};
  page_size = (size_t)sysconf(_SC_PAGESIZE);
  table_reach = page_size / sizeof(void*) * page_size;
  int count = argc > 2 ? atoi(argv[2]) : 100;
  for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
    if (!strcmp(argv[1], modes[i].name)) {
      modes[i].run(count);
      return 0;
    }
  fprintf(stderr, "usage: workload pipes|sockets|anon|crosscpu|crosspipes|frag|toolarge [COUNT]\n");
  return 2;
}
