// The load of the drill: page tables, which can't be moved, made at a steady pace.
// usage: fragment full|room
//
// full: in a memory full of pages that the kernel may take back, as those of a page cache. They are
// given up in an order that is random within `window` bytes and goes along the memory beyond. What
// a small reserve has free lies scattered over many pageblocks, of which each fallback gets few
// pages; the larger the reserve, the more it gets, and the later comes the next.
//
// room: in whatever is free, given back after a while.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
  page_size = 4096,
  pageblock = 2 << 20,
  window = 10 << 20,
  leave = 24 << 20,  // free memory at first; less, and the kernel kills who takes it
  tables_per_step = 32,
  step_ms = 30,
  steps_per_round = 100,  // with room, the tables are given back after so many steps
};

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static char* map(size_t size) {
  char* area =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) fail("mmap");
  return area;
}

struct page {
  uint64_t frame;
  char* at;
};

static int by_frame(const void* a, const void* b) {
  const uint64_t x = ((const struct page*)a)->frame, y = ((const struct page*)b)->frame;
  return (x > y) - (x < y);
}

// Reads where the pages lie (Documentation/admin-guide/mm/pagemap.rst).
static void find_frames(struct page* pages, size_t count) {
  const int pagemap = open("/proc/self/pagemap", O_RDONLY);
  if (pagemap < 0) fail("/proc/self/pagemap");
  for (size_t i = 0; i < count; i++) {
    uint64_t entry;
    const off_t offset = (off_t)((uintptr_t)pages[i].at / page_size * sizeof entry);
    if (pread(pagemap, &entry, sizeof entry, offset) != sizeof entry) fail("/proc/self/pagemap");
    pages[i].frame = entry & ((UINT64_C(1) << 55) - 1);
  }
  close(pagemap);
}

static void shuffle(struct page* pages, size_t count) {
  for (size_t i = count; i > 1; i--) {
    const size_t other = (size_t)rand() % i;
    const struct page page = pages[i - 1];
    pages[i - 1] = pages[other];
    pages[other] = page;
  }
}

static void fill_memory(void) {
  const size_t most = (size_t)sysconf(_SC_PHYS_PAGES);
  struct page* const pages = (struct page*)map(most * sizeof *pages);
  memset(pages, 1, most * sizeof *pages);  // or its pages would lie among the others, and stay
  char* const area = map(most * page_size);
  if (madvise(area, most * page_size, MADV_NOHUGEPAGE) != 0) fail("madvise");
  size_t count = 0;
  for (; count < most && (size_t)sysconf(_SC_AVPHYS_PAGES) * page_size > leave; count++) {
    pages[count].at = area + count * page_size;
    pages[count].at[0] = 1;
  }
  find_frames(pages, count);
  qsort(pages, count, sizeof *pages, by_frame);
  const size_t per_window = window / page_size;
  for (size_t i = 0; i < count; i += per_window)
    shuffle(pages + i, count - i < per_window ? count - i : per_window);
  for (size_t i = 0; i < count; i++)
    if (madvise(pages[i].at, page_size, MADV_FREE) != 0) fail("madvise");
  printf("fragment: %zu pages may be taken back\n", count);
  fflush(stdout);
}

// Reading maps the one page of zeros, for which a page table is needed.
static volatile char* make_tables(void) {
  volatile char* const area = map((size_t)tables_per_step * pageblock);
  for (size_t i = 0; i < tables_per_step; i++) (void)area[i * pageblock];
  nanosleep(&(struct timespec){.tv_nsec = step_ms * 1000 * 1000}, NULL);
  return area;
}

static void in_full_memory(void) {
  fill_memory();
  for (;;) make_tables();
}

static void with_room(void) {
  for (;;) {
    volatile char* areas[steps_per_round];
    for (int i = 0; i < steps_per_round; i++) areas[i] = make_tables();
    for (int i = 0; i < steps_per_round; i++)
      munmap((void*)areas[i], (size_t)tables_per_step * pageblock);
  }
}

int main(int argc, char** argv) {
  if (argc == 2 && !strcmp(argv[1], "full")) in_full_memory();
  if (argc == 2 && !strcmp(argv[1], "room")) with_room();
  fprintf(stderr, "usage: fragment full|room\n");
  return 2;
}
