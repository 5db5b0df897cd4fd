/*
 * A disk that is full when the test says so: for faults.pl, where it may not mount a small file system. It compiles this and has the
 * server load it first (LD_PRELOAD).
 * While the file $FULL_DISK exists, no file below a folder pg_tblspc can grow: ENOSPC, as a small tablespace would give it, without the
 * rights that mounting one needs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int
refuses(int fd, off_t end)
{
	const char *switch_file = getenv("FULL_DISK");
	char		link[64], path[4096];
	struct stat s;
	ssize_t		n;

	if (switch_file == NULL || access(switch_file, F_OK) != 0)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	if (strstr(path, "/PG_") == NULL || strstr(path, "/small/") == NULL || fstat(fd, &s) != 0 || end <= s.st_size)
		return 0;
	errno = ENOSPC;
	return 1;
}

#define REAL(name) static __typeof__(name) *real; if (real == NULL) real = dlsym(RTLD_NEXT, #name)

ssize_t
pwrite(int fd, const void *data, size_t n, off_t at)
{
	REAL(pwrite);
	return refuses(fd, at + (off_t) n) ? -1 : real(fd, data, n, at);
}

ssize_t
pwrite64(int fd, const void *data, size_t n, off64_t at)
{
	REAL(pwrite64);
	return refuses(fd, at + (off_t) n) ? -1 : real(fd, data, n, at);
}

static off_t
length(const struct iovec *parts, int count)
{
	off_t		sum = 0;

	for (int i = 0; i < count; i++)
		sum += (off_t) parts[i].iov_len;
	return sum;
}

ssize_t
pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
	REAL(pwritev);
	return refuses(fd, at + length(parts, count)) ? -1 : real(fd, parts, count, at);
}

ssize_t
pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{
	REAL(pwritev64);
	return refuses(fd, at + length(parts, count)) ? -1 : real(fd, parts, count, at);
}

int
posix_fallocate(int fd, off_t at, off_t n)
{
	REAL(posix_fallocate);
	return refuses(fd, at + n) ? ENOSPC : real(fd, at, n);
}

int
posix_fallocate64(int fd, off64_t at, off64_t n)
{
	REAL(posix_fallocate64);
	return refuses(fd, at + n) ? ENOSPC : real(fd, at, n);
}
