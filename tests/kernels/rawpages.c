// Copies whole sub-buffers, as the kernel hands them out, from a
// trace_pipe_raw to standard output until there is nothing left.
// usage: rawpages TRACE_PIPE_RAW SUB_BUFFER_SIZE MAX_SUB_BUFFERS
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: rawpages TRACE_PIPE_RAW SUB_BUFFER_SIZE MAX_SUB_BUFFERS\n");
    return 2;
  }
  int fd = open(argv[1], O_RDONLY | O_NONBLOCK);
  size_t size = (size_t)atol(argv[2]);
  char* page = malloc(size);
  if (fd < 0 || !page) {
    perror(argv[1]);
    return 1;
  }
  for (long left = atol(argv[3]); left > 0; left--) {
    ssize_t got = read(fd, page, size);
    if (got == 0 || (got < 0 && errno == EAGAIN)) return 0;
    if (got != (ssize_t)size) {
      fprintf(stderr, "%s: a read of %zu gave %zd\n", argv[1], size, got);
      return 1;
    }
    fwrite(page, 1, size, stdout);
  }
  return 0;
}
