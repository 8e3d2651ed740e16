// A storm of slab events on one CPU, at a rate that is kept, with the CPU never left idle.
// usage: storm_load CPU LOOPS_PER_SECOND SECONDS
// A loop is pipe2, close, close, and a byte of a file locked and unlocked a few times: pipes alone
// take so long besides their events that a million a second leave no time on some processors, but
// each lock or unlock allocates up to three file_lock in some 100 ns each (fs/locks.c,
// fcntl_setlk() and posix_lock_inode(), 5.10 to 6.18). Where others had the CPU, 1 ms worth of
// loops is caught up with at once, and the rest, of up to a second, at a third more than the rate.
// Prints how many loops it made.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now_s(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double least(double a, double b) { return a < b ? a : b; }

static void die(const char* what) {
  perror(what);
  exit(1);
}

static void make_pipe(void) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) die("pipe2");
  close(ends[0]);
  close(ends[1]);
}

static void lock_and_unlock(int file) {
  struct flock lock = {.l_whence = SEEK_SET, .l_len = 1};
  lock.l_type = F_WRLCK;
  if (fcntl(file, F_SETLK, &lock)) die("fcntl");
  lock.l_type = F_UNLCK;
  if (fcntl(file, F_SETLK, &lock)) die("fcntl");
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: storm_load CPU LOOPS_PER_SECOND SECONDS\n");
    return 2;
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)atoi(argv[1]), &set);
  if (sched_setaffinity(0, sizeof set, &set)) die("sched_setaffinity");
  FILE* file = tmpfile();
  if (!file) die("tmpfile");
  const double interval = 1 / atof(argv[2]);
  const double end = now_s() + atof(argv[3]);
  const double at_once = 1e-3;
  uint64_t loops = 0;
  double behind = 0;
  for (double now = now_s(), due = now; now < end; now = now_s()) {
    if (due < now - at_once) {
      behind = least(behind + now - at_once - due, 1);
      due = now - at_once;
    }
    for (; due <= now; loops++) {
      const double earlier = least(behind, interval / 4);
      behind -= earlier;
      due += interval - earlier;
      make_pipe();
      for (int i = 0; i < 4; i++) lock_and_unlock(fileno(file));
    }
  }
  printf("%llu\n", (unsigned long long)loops);
  return 0;
}
