// Measures an interval of kmem events with several observers and little between
// them: kmem_exporters, over HTTP, and a tracefs instance or the kernel's stats.
//
// usage: interval equality NAME=PORT[,NAME=PORT]... INSTANCE OUT REST_MS COMMAND...
//   before.prom; INSTANCE records; inner-before.prom; COMMAND; rest;
//   inner-after.prom; INSTANCE stops; after.prom: each of every exporter, in
//   OUT/NAME. What the instance has lies between the differences of the inner
//   and of the outer scrapes of each.
//   INTERVAL_FIFO in the environment: be scheduled before everybody else, lest
//   a busy machine makes the boundary wide. COMMAND is scheduled as usual.
//   With PERF_CONTROL and PERF_ACK in the environment (fifos of perf stat
//   --control), perf counts within the recording.
// usage: interval losses PORT INSTANCE OUT REST_MS PID COMMAND...
//   Runs COMMAND once while PID (the exporter, whose instance it is) is stopped
//   and once while it runs. At rest: OUT/early.cpuN, the instance's
//   per_cpu/cpuN/stats; OUT/after.prom; then, while PID can read nothing more,
//   the stats again, OUT/cpuN.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { scrape_max = 1 << 20, exporters_max = 4 };

struct scrape {
  char* text;
  size_t length;
};

struct exporter {
  const char* name;
  int port;
  struct scrape before, inner_before, inner_after, after;
};

static void die(const char* what) {
  fprintf(stderr, "interval: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void rest(long ms) {
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&time, &time) && errno == EINTR)
    ;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// All memory is taken, and touched, beforehand.
static struct scrape prepare(void) {
  struct scrape scrape = {malloc(scrape_max), 0};
  if (!scrape.text) die("malloc");
  memset(scrape.text, 1, scrape_max);
  return scrape;
}

static void take(struct scrape* scrape, int port) {
  static const char request[] =
      "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr*)&address, sizeof address))
    die("cannot connect to the exporter");
  if (write(fd, request, sizeof request - 1) != (ssize_t)sizeof request - 1) die("write");
  for (;;) {
    ssize_t got = read(fd, scrape->text + scrape->length, scrape_max - scrape->length);
    if (got < 0) die("read");
    if (got == 0) break;
    scrape->length += (size_t)got;
  }
  close(fd);
  if (scrape->length == scrape_max || strncmp(scrape->text, "HTTP/1.1 200", 12)) {
    fprintf(stderr, "interval: unusable answer: %.80s\n", scrape->text);
    exit(1);
  }
}

static void save(const struct scrape* scrape, const char* directory, const char* name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  scrape->text[scrape->length] = 0;
  const char* body = strstr(scrape->text, "\r\n\r\n");
  if (memmem(scrape->text, body ? (size_t)(body - scrape->text) : 0, "chunked", 7)) {
    fprintf(stderr, "interval: chunked answers are not understood\n");
    exit(1);
  }
  FILE* file = fopen(path, "w");
  if (!body || !file || fputs(body + 4, file) < 0 || fclose(file)) die(path);
}

static double age_of(const struct scrape* scrape) {
  static const char series[] = "\nkmem_exporter_snapshot_age_seconds ";
  scrape->text[scrape->length] = 0;
  const char* age = strstr(scrape->text, series);
  return age ? atof(age + sizeof series - 1) : 1e9;
}

// Takes a scrape that shows all that happened until now, without a rest, which
// is not one where others are busy. Drains follow one another, and a scrape
// tells the age of the last one it knows: the second of two that ended since
// began after the first.
static void take_complete(struct scrape* scrape, int port) {
  for (int drains = 0, attempt = 0; drains < 2; attempt++) {
    double since = now();
    do {
      if (attempt == 200) {
        fprintf(stderr, "interval: no scrape is up to date\n");
        exit(1);
      }
      scrape->length = 0;
      take(scrape, port);
    } while (age_of(scrape) >= now() - since && ++attempt);
    drains++;
  }
}

static void put(int fd, const char* text) {
  if (write(fd, text, strlen(text)) != (ssize_t)strlen(text)) die("write");
}

static void run(char** command) {
  int status;
  pid_t child = fork();
  if (child < 0) die("fork");
  if (!child) {
    execvp(*command, command);
    die(*command);
  }
  if (waitpid(child, &status, 0) < 0) die("waitpid");
  if (status) {
    fprintf(stderr, "interval: %s failed (status %d)\n", *command, status);
    exit(1);
  }
}

static int open_file(const char* directory, const char* name, int flags) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  int fd = open(path, flags);
  if (fd < 0) die(path);
  return fd;
}

static void perf(int control, int ack, const char* command) {
  char answer[8];
  if (control < 0) return;
  put(control, command);
  if (read(ack, answer, sizeof answer) <= 0) die("perf does not answer");
}

// "NAME=PORT,NAME=PORT"; returns how many.
static int parse_exporters(char* list, struct exporter* exporters) {
  int count = 0;
  for (char* item = strtok(list, ","); item; item = strtok(NULL, ",")) {
    char* equals = strchr(item, '=');
    if (!equals || count == exporters_max) {
      fprintf(stderr, "interval: not NAME=PORT, or too many: %s\n", item);
      exit(2);
    }
    *equals = 0;
    exporters[count++] = (struct exporter){.name = item,
                                           .port = atoi(equals + 1),
                                           .before = prepare(),
                                           .inner_before = prepare(),
                                           .inner_after = prepare(),
                                           .after = prepare()};
  }
  return count;
}

static void equality(char* list, const char* instance, const char* out, long rest_ms,
                     char** command) {
  struct exporter exporters[exporters_max];
  const int count = parse_exporters(list, exporters);
  const int complete = getenv("INTERVAL_FIFO") != NULL;
  int control = -1, ack = -1;
  if (getenv("PERF_CONTROL")) {
    control = open(getenv("PERF_CONTROL"), O_RDWR);
    ack = open(getenv("PERF_ACK"), O_RDWR);
    if (control < 0 || ack < 0) die("PERF_CONTROL, PERF_ACK");
  }
  struct sched_param first_of_all = {.sched_priority = 10};
  if (getenv("INTERVAL_FIFO") &&
      sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first_of_all))
    die("sched_setscheduler");
  int tracing_on = open_file(instance, "tracing_on", O_WRONLY);
  for (int i = 0; i < count; i++) {
    struct scrape first = prepare();  // whatever is done at the first scrape only
    take(&first, exporters[i].port);
    free(first.text);
  }
  rest(rest_ms);
  for (int i = 0; i < count; i++) take(&exporters[i].before, exporters[i].port);
  put(tracing_on, "1");
  perf(control, ack, "enable\n");
  if (!complete) rest(rest_ms);  // an exporter drains every 50 ms, or every second
  for (int i = 0; i < count; i++)
    (complete ? take_complete : take)(&exporters[i].inner_before, exporters[i].port);
  run(command);
  rest(rest_ms);
  for (int i = 0; i < count; i++) take(&exporters[i].inner_after, exporters[i].port);
  perf(control, ack, "disable\n");
  put(tracing_on, "0");
  if (!complete) rest(rest_ms);
  for (int i = 0; i < count; i++)
    (complete ? take_complete : take)(&exporters[i].after, exporters[i].port);
  for (int i = 0; i < count; i++) {
    char directory[4096];
    snprintf(directory, sizeof directory, "%s/%s", out, exporters[i].name);
    if (mkdir(directory, 0777) && errno != EEXIST) die(directory);
    save(&exporters[i].before, directory, "before.prom");
    save(&exporters[i].inner_before, directory, "inner-before.prom");
    save(&exporters[i].inner_after, directory, "inner-after.prom");
    save(&exporters[i].after, directory, "after.prom");
  }
}

static void read_stats(const int* files, int cpus, char (*stats)[1024]) {
  for (int cpu = 0; cpu < cpus; cpu++)
    if (pread(files[cpu], stats[cpu], sizeof *stats - 1, 0) <= 0) die("stats");
}

static void save_stats(const char* directory, const char* prefix, int cpus, char (*stats)[1024]) {
  for (int cpu = 0; cpu < cpus; cpu++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%scpu%d", directory, prefix, cpu);
    FILE* file = fopen(path, "w");
    if (!file || fputs(stats[cpu], file) < 0 || fclose(file)) die(path);
  }
}

static void losses(int port, const char* instance, const char* out, long rest_ms, pid_t pid,
                   char** command) {
  struct scrape after = prepare();
  static char early[256][1024], stats[256][1024];
  int files[256], cpus = 0;
  for (; cpus < 256; cpus++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/per_cpu/cpu%d/stats", instance, cpus);
    files[cpus] = open(path, O_RDONLY);
    if (files[cpus] < 0) break;
  }
  if (!cpus) die(instance);
  if (kill(pid, SIGSTOP)) die("kill");
  run(command);
  if (kill(pid, SIGCONT)) die("kill");
  run(command);
  rest(rest_ms);
  // A scrape has the buffers drained, but waits only 5 ms for it. Where that is
  // not enough, more is read behind the scrape and before the stop: the two
  // can't be compared then. Take another one.
  for (int attempt = 0, same = 0; !same && attempt < 30; attempt++) {
    if (attempt) rest(100);
    read_stats(files, cpus, early);
    after.length = 0;
    take(&after, port);
    if (kill(pid, SIGSTOP)) die("kill");
    read_stats(files, cpus, stats);
    if (kill(pid, SIGCONT)) die("kill");
    after.text[after.length] = 0;
    same = 1;
    for (int cpu = 0; cpu < cpus; cpu++) {
      char series[80];
      snprintf(series, sizeof series, "\nkmem_exporter_cpu_events_read_total{cpu=\"%d\"} ", cpu);
      const char *exporter = strstr(after.text, series),
                 *kernel = strstr(stats[cpu], "read events: ");
      same &= exporter && kernel && atoll(exporter + strlen(series)) == atoll(kernel + 13);
    }
  }
  save(&after, out, "after.prom");
  save_stats(out, "early.", cpus, early);
  save_stats(out, "", cpus, stats);
  for (int cpu = 0; cpu < cpus; cpu++) close(files[cpu]);
}

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  alarm(600);  // whatever does not answer
  if (argc > 6 && !strcmp(argv[1], "equality")) {
    equality(argv[2], argv[3], argv[4], atol(argv[5]), argv + 6);
  } else if (argc > 7 && !strcmp(argv[1], "losses")) {
    losses(atoi(argv[2]), argv[3], argv[4], atol(argv[5]), atoi(argv[6]), argv + 7);
  } else {
    fprintf(stderr,
            "usage: interval equality NAME=PORT[,NAME=PORT]... INSTANCE OUT REST_MS COMMAND...\n"
            "       interval losses PORT INSTANCE OUT REST_MS PID COMMAND...\n");
    return 2;
  }
  return 0;
}
