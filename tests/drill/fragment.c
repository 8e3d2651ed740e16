// The load of the drill. What it asks for is the same in both modes: page tables, which can't be
// moved, at a steady pace. In a machine full of movable pages, of which single ones become free
// here and there, each of them goes where only movable ones should be; in one with free memory
// hardly any does. usage: fragment full|free
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
  page_size = 4096,
  pageblock = 2 << 20,
  leave = 26 << 20,      // free memory; the zone DMA, out of reach, is 15 MiB of it
  tables_per_step = 32,  // page tables made by a step
  steps_per_round = 25,  // without a full memory, they are given back after so many steps
  stride = 64,           // of so many pages one becomes free at a time
};

static char* map(size_t size) {
  char* area =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  return area;
}

// Reading maps the one page of zeros, for which a page table is needed.
static volatile char* make_tables(void) {
  volatile char* area = map((size_t)tables_per_step * pageblock);
  for (size_t i = 0; i < tables_per_step; i++) (void)area[i * pageblock];
  return area;
}

static void wait_a_little(void) {
  nanosleep(&(struct timespec){.tv_nsec = 200 * 1000 * 1000}, NULL);
}

static void full(void) {
  char* area = map((size_t)sysconf(_SC_PHYS_PAGES) * page_size);
  size_t used = 0;
  for (; (size_t)sysconf(_SC_AVPHYS_PAGES) * page_size > leave; used += 16 * page_size)
    for (size_t i = 0; i < 16; i++) area[used + i * page_size] = 1;
  // One page in 64, then those beside them, and so on: no pageblock has many free, so that each
  // fallback serves for few page tables.
  for (size_t first = 0; first < stride; first++) {
    size_t next = first * page_size;
    while (next < used) {
      for (int i = 0; i < tables_per_step && next < used; i++, next += stride * page_size)
        madvise(area + next, page_size, MADV_DONTNEED);
      make_tables();
      wait_a_little();
    }
  }
}

static void with_free_memory(void) {
  for (;;) {
    volatile char* areas[steps_per_round];
    for (int i = 0; i < steps_per_round; i++) {
      areas[i] = make_tables();
      wait_a_little();
    }
    for (int i = 0; i < steps_per_round; i++)
      munmap((void*)areas[i], (size_t)tables_per_step * pageblock);
  }
}

int main(int argc, char** argv) {
  if (argc == 2 && !strcmp(argv[1], "full")) {
    full();
  } else if (argc == 2 && !strcmp(argv[1], "free")) {
    with_free_memory();
  }
  fprintf(stderr, "usage: fragment full|free (full: it ran out of pages)\n");
  return 2;
}
