#include "waitpoint.hpp"

#include "entry.hpp"

namespace underway {

void reach_waitpoint(waitpoint_id id) {
  // The lock that pg_advisory_lock(int, int) takes: field 4 is 2 (lockfuncs.c).
  LOCKTAG tag;
  SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 7867, static_cast<uint32>(id), 2);
  (void)LockAcquire(&tag, ShareLock, false, false);
  LockRelease(&tag, ShareLock, false);
}

UNDERWAY_ENTRY(underway_arm_waitpoints) {
  shared->waitpoints = static_cast<uint64>(PG_GETARG_INT64(0));
  PG_RETURN_BOOL(true);
}

}  // namespace underway
