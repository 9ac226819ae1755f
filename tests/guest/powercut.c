/* Preloaded into a monitor whose disks use aio=threads, logs what reaches each file, for
 * test_disk_powercut.py to find out what a power failure could have left: every write,
 * and for every sync which writes it covers.
 *
 * Writes are one after the other, a record each when it is done.  A sync covers what was
 * done when it began, and takes a while, so that who relies on more is found out.  It
 * syncs nothing: the page cache survives this test. */
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

typedef enum { CUT_WRITE, CUT_ZERO, CUT_TRUNCATE, CUT_SYNC } CutKind;

/* In the log before the data of a WRITE.  SYNC: offset is how many records it covers. */
typedef struct CutRecord {
    uint64_t inode;
    uint32_t kind, pad;
    uint64_t offset, len;
} CutRecord;

enum { SYNC_US = 300 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static uint64_t n_records;

static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_ftruncate)(int, off_t);

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t offset);
ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t offset);
int fallocate64(int fd, int mode, off_t offset, off_t len);
int ftruncate64(int fd, off_t size);

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("POWERCUT_LOG");

    *(void **)&real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
    *(void **)&real_fallocate = dlsym(RTLD_NEXT, "fallocate64");
    *(void **)&real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    if (path)
        log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static uint64_t inode_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? st.st_ino : 0;
}

/* The lock is held. */
static void append(int fd, CutKind kind, uint64_t offset, uint64_t len,
                   const struct iovec *iov, int n)
{
    CutRecord r = {inode_of(fd), kind, 0, offset, len};
    uint64_t left = len;

    if (log_fd < 0 || !r.inode)
        return;
    if (write(log_fd, &r, sizeof(r)) != sizeof(r))
        abort();
    for (int i = 0; i < n && left; i++) {
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;

        if (write(log_fd, iov[i].iov_base, part) != (ssize_t)part)
            abort();
        left -= part;
    }
    n_records++;
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t offset)
{
    pthread_mutex_lock(&lock);
    ssize_t done = real_pwritev(fd, iov, n, offset);
    if (done > 0)
        append(fd, CUT_WRITE, (uint64_t)offset, (uint64_t)done, iov, n);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};

    return pwritev64(fd, &iov, 1, offset);
}

int fallocate64(int fd, int mode, off_t offset, off_t len)
{
    pthread_mutex_lock(&lock);
    int r = real_fallocate(fd, mode, offset, len);
    if (r == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        append(fd, CUT_ZERO, (uint64_t)offset, (uint64_t)len, NULL, 0);
    pthread_mutex_unlock(&lock);
    return r;
}

int ftruncate64(int fd, off_t size)
{
    pthread_mutex_lock(&lock);
    int r = real_ftruncate(fd, size);
    if (r == 0)
        append(fd, CUT_TRUNCATE, (uint64_t)size, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return r;
}

int fdatasync(int fd)
{
    pthread_mutex_lock(&lock);
    uint64_t covered = n_records;
    pthread_mutex_unlock(&lock);
    usleep(SYNC_US);
    pthread_mutex_lock(&lock);
    append(fd, CUT_SYNC, covered, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd)
{
    return fdatasync(fd);
}
