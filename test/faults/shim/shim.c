/*
 * A preloaded library between a process and its files, for one folder (MOORAGE_SHIM_DIR):
 *
 * - MOORAGE_SHIM_MARK: written once the library is in the process; a harness demands it, since a
 *   library that was silently not loaded would make every test pass.
 * - MOORAGE_SHIM_TRACE: every open, write, truncation, rename, unlink and sync of the folder's files, in
 *   their order, with all bytes. Calls are made one at a time while a trace is written.
 * - MOORAGE_SHIM_CONTROL: a file of four 64-bit numbers, which the harness changes while the process
 *   runs: bytes of space that are left (-1: no limit), errors (1: writes fail with EIO, 2: syncs do),
 *   microseconds that a sync takes longer, and, written by this library, the count of syncs.
 *
 * A record is little-endian: op 1 B, flags 1 B, length of name 2 B, length of data 4 B, inode 8 B,
 * offset 8 B, name, data. Ops: 1 open (flags 1 created, 2 truncated, 4 folder; offset: size), 2 write,
 * 3 truncate (offset: new size), 4 sync, 5 rename (name: from NUL to), 6 unlink.
 *
 * Files that are mapped are not seen: SQLite's -shm, which is rebuilt from the log after a crash.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 65536
#define REAL(ret, name, ...)                                                                       \
  static ret (*real_##name)(__VA_ARGS__);                                                          \
  if (real_##name == NULL) real_##name = (ret(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

enum { OP_OPEN = 1, OP_WRITE, OP_TRUNCATE, OP_SYNC, OP_RENAME, OP_UNLINK };
struct control { int64_t space, errors, sync_us, syncs; };

static char dir[PATH_MAX];
static size_t dir_len;
static int trace_fd = -1;
static volatile struct control *control;
static unsigned char tracked[MAX_FD]; /* 0 not of the folder, 1 file, 2 folder */
static uint64_t inode_of[MAX_FD];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char *what) {
  dprintf(2, "fault shim: %s: %s\n", what, strerror(errno));
  _exit(97);
}

static void write_all(int fd, const void *data, size_t n) {
  const char *p = data;
  while (n > 0) {
    ssize_t done = syscall(SYS_write, fd, p, n);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) give_up("cannot write the trace");
    p += done;
    n -= (size_t)done;
  }
}

__attribute__((constructor)) static void load(void) {
  const char *d = getenv("MOORAGE_SHIM_DIR"), *mark = getenv("MOORAGE_SHIM_MARK");
  const char *trace = getenv("MOORAGE_SHIM_TRACE"), *c = getenv("MOORAGE_SHIM_CONTROL");
  if (d == NULL || mark == NULL) return;
  if (realpath(d, dir) == NULL) give_up("cannot find the folder");
  dir_len = strlen(dir);
  if (trace != NULL) {
    trace_fd = (int)syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace_fd < 0) give_up("cannot open the trace");
  }
  if (c != NULL) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, c, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) give_up("cannot open the control file");
    void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) give_up("cannot map the control file");
    control = page;
    syscall(SYS_close, fd);
  }
  int fd = (int)syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) give_up("cannot write the marker");
  write_all(fd, "loaded\n", 7);
  syscall(SYS_close, fd);
}

static int inside(const char *path) {
  return dir_len > 0 && strncmp(path, dir, dir_len) == 0 && path[dir_len] == '/';
}

static void absolute(const char *path, char *out) {
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
    return;
  }
  if (getcwd(out, PATH_MAX) == NULL) out[0] = 0;
  size_t n = strlen(out);
  snprintf(out + n, PATH_MAX - n, "/%s", path);
}

static void enter(void) {
  if (trace_fd >= 0) pthread_mutex_lock(&lock);
}

static void leave(void) {
  if (trace_fd >= 0) pthread_mutex_unlock(&lock);
}

static void record(int op, int flags, uint64_t inode, uint64_t offset, const char *name, size_t name_len,
                   const struct iovec *iov, int iovcnt, size_t data_len) {
  if (trace_fd < 0) return;
  unsigned char head[24];
  uint16_t n = (uint16_t)name_len;
  uint32_t d = (uint32_t)data_len;
  head[0] = (unsigned char)op;
  head[1] = (unsigned char)flags;
  memcpy(head + 2, &n, 2);
  memcpy(head + 4, &d, 4);
  memcpy(head + 8, &inode, 8);
  memcpy(head + 16, &offset, 8);
  write_all(trace_fd, head, sizeof head);
  if (name_len > 0) write_all(trace_fd, name, name_len);
  for (int i = 0; i < iovcnt && data_len > 0; i++) {
    size_t part = iov[i].iov_len < data_len ? iov[i].iov_len : data_len;
    write_all(trace_fd, iov[i].iov_base, part);
    data_len -= part;
  }
}

static void opened(int fd, int flags, int existed) {
  if (fd < 0 || fd >= MAX_FD || dir_len == 0) return;
  tracked[fd] = 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return;
  path[n] = 0;
  struct stat st;
  if (fstat(fd, &st) != 0) return;
  int folder = S_ISDIR(st.st_mode);
  if (!inside(path) && !(folder && strcmp(path, dir) == 0)) return;
  if (!folder && !S_ISREG(st.st_mode)) return;
  tracked[fd] = folder ? 2 : 1;
  inode_of[fd] = (uint64_t)st.st_ino;
  int f = (existed ? 0 : 1) | ((flags & O_TRUNC) != 0 ? 2 : 0) | (folder ? 4 : 0);
  record(OP_OPEN, f, inode_of[fd], (uint64_t)st.st_size, path, (size_t)n, NULL, 0, 0);
}

static int open_common(int at, const char *path, int flags, mode_t mode) {
  enter();
  int existed = (flags & O_CREAT) == 0 || faccessat(at, path, F_OK, 0) == 0;
  int fd = (int)syscall(SYS_openat, at, path, flags, mode);
  int error = errno;
  opened(fd, flags, existed);
  leave();
  errno = error;
  return fd;
}

#define MODE_OF(flags)                                                                             \
  mode_t mode = 0;                                                                                 \
  if (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE) {                            \
    va_list list;                                                                                  \
    va_start(list, flags);                                                                         \
    mode = (mode_t)va_arg(list, int);                                                              \
    va_end(list);                                                                                  \
  }

int open(const char *path, int flags, ...) {
  MODE_OF(flags);
  return open_common(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE_OF(flags);
  return open_common(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int at, const char *path, int flags, ...) {
  MODE_OF(flags);
  return open_common(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
  MODE_OF(flags);
  return open_common(at, path, flags | O_LARGEFILE, mode);
}
int creat(const char *path, mode_t mode) {
  return open_common(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) {
  return open_common(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC | O_LARGEFILE, mode);
}

int close(int fd) {
  REAL(int, close, int);
  if (fd >= 0 && fd < MAX_FD) tracked[fd] = 0;
  return real_close(fd);
}

static int is_file(int fd) {
  return fd >= 0 && fd < MAX_FD && tracked[fd] == 1;
}

/* Whether the disk takes `n` bytes at `offset`: only what makes the file longer needs space. */
static int refused(int fd, uint64_t offset, size_t n) {
  if (control == NULL) return 0;
  if ((control->errors & 1) != 0) return EIO;
  if (control->space < 0) return 0;
  struct stat st;
  if (fstat(fd, &st) != 0) return 0;
  int64_t more = (int64_t)(offset + n) - (int64_t)st.st_size;
  if (more <= 0) return 0;
  if (more > control->space) return ENOSPC;
  control->space -= more;
  return 0;
}

static ssize_t write_common(int fd, const struct iovec *iov, int iovcnt, int64_t at) {
  size_t n = 0;
  for (int i = 0; i < iovcnt; i++) n += iov[i].iov_len;
  enter();
  int64_t offset = at;
  if (at < 0) {
    int flags = fcntl(fd, F_GETFL);
    struct stat st;
    if ((flags & O_APPEND) != 0 && fstat(fd, &st) == 0) offset = st.st_size;
    else offset = lseek(fd, 0, SEEK_CUR);
  }
  int error = refused(fd, (uint64_t)offset, n);
  ssize_t done = -1;
  if (error == 0) {
    done = at < 0 ? syscall(SYS_writev, fd, iov, iovcnt)
                  : syscall(SYS_pwritev, fd, iov, iovcnt, (long)at, (long)(at >> 31 >> 1));
    error = errno;
    if (done > 0)
      record(OP_WRITE, 0, inode_of[fd], (uint64_t)offset, NULL, 0, iov, iovcnt, (size_t)done);
  }
  leave();
  errno = error;
  return done;
}

ssize_t write(int fd, const void *data, size_t n) {
  if (!is_file(fd)) return syscall(SYS_write, fd, data, n);
  struct iovec v = {(void *)data, n};
  return write_common(fd, &v, 1, -1);
}
ssize_t writev(int fd, const struct iovec *iov, int iovcnt) {
  if (!is_file(fd)) return syscall(SYS_writev, fd, iov, iovcnt);
  return write_common(fd, iov, iovcnt, -1);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
  struct iovec v = {(void *)data, n};
  if (is_file(fd)) return write_common(fd, &v, 1, at);
  return syscall(SYS_pwrite64, fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  return pwrite(fd, data, n, at);
}
ssize_t pwritev(int fd, const struct iovec *iov, int iovcnt, off_t at) {
  if (is_file(fd)) return write_common(fd, iov, iovcnt, at);
  return syscall(SYS_pwritev, fd, iov, iovcnt, (long)at, (long)(at >> 31 >> 1));
}
ssize_t pwritev64(int fd, const struct iovec *iov, int iovcnt, off64_t at) {
  return pwritev(fd, iov, iovcnt, at);
}

int ftruncate(int fd, off_t size) {
  REAL(int, ftruncate, int, off_t);
  if (!is_file(fd)) return real_ftruncate(fd, size);
  enter();
  int done = real_ftruncate(fd, size), error = errno;
  if (done == 0) record(OP_TRUNCATE, 0, inode_of[fd], (uint64_t)size, NULL, 0, NULL, 0, 0);
  leave();
  errno = error;
  return done;
}
int ftruncate64(int fd, off64_t size) {
  return ftruncate(fd, size);
}

static int sync_common(int fd, int (*real)(int)) {
  if (fd < 0 || fd >= MAX_FD || tracked[fd] == 0) return real(fd);
  if (control != NULL) {
    if (control->sync_us > 0) usleep((useconds_t)control->sync_us);
    if ((control->errors & 2) != 0) {
      errno = EIO;
      return -1;
    }
    __atomic_fetch_add(&((struct control *)control)->syncs, 1, __ATOMIC_RELAXED);
  }
  enter();
  int done = real(fd), error = errno;
  if (done == 0) record(OP_SYNC, 0, inode_of[fd], 0, NULL, 0, NULL, 0, 0);
  leave();
  errno = error;
  return done;
}

int fsync(int fd) {
  REAL(int, fsync, int);
  return sync_common(fd, real_fsync);
}
int fdatasync(int fd) {
  REAL(int, fdatasync, int);
  return sync_common(fd, real_fdatasync);
}

int rename(const char *from, const char *to) {
  REAL(int, rename, const char *, const char *);
  char names[2 * PATH_MAX], b[PATH_MAX];
  absolute(from, names);
  absolute(to, b);
  if (!inside(names) && !inside(b)) return real_rename(from, to);
  enter();
  int done = real_rename(from, to), error = errno;
  size_t n = strlen(names) + 1;
  snprintf(names + n, PATH_MAX, "%s", b);
  if (done == 0) record(OP_RENAME, 0, 0, 0, names, n + strlen(b), NULL, 0, 0);
  leave();
  errno = error;
  return done;
}

int unlink(const char *path) {
  REAL(int, unlink, const char *);
  char name[PATH_MAX];
  absolute(path, name);
  if (!inside(name)) return real_unlink(path);
  enter();
  int done = real_unlink(path), error = errno;
  if (done == 0) record(OP_UNLINK, 0, 0, 0, name, strlen(name), NULL, 0, 0);
  leave();
  errno = error;
  return done;
}
