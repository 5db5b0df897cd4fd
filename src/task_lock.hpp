// The advisory lock that an executing transaction holds on its task: nobody else runs a task while
// somebody holds it. Runs in: workers and clients. Error discipline: server code, may raise.
// Invariant: of a lock class of its own, so that it never meets an application's advisory locks,
// which use 1 and 2 (lockfuncs.c). In pg_locks: locktype advisory, objsubid 21847, classid and
// objid made of the id's last eight bytes.
#pragma once

#include "pg/server.hpp"

namespace underway {

inline constexpr uint16 task_lock_class = 0x5557;
inline constexpr uint16 places_lock_class = 0x5558;

inline LOCKTAG task_lock_tag(const pg_uuid_t& id) noexcept {
  uint32 parts[2];
  memcpy(parts, id.data + 8, sizeof parts);
  LOCKTAG tag;
  SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, parts[0], parts[1], task_lock_class);
  return tag;
}

// Until the end of the transaction.
inline void lock_task(const pg_uuid_t& id) {
  const LOCKTAG tag = task_lock_tag(id);
  (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

// False: somebody executes it. Leaves no trace then.
inline bool try_lock_task(const pg_uuid_t& id) {
  const LOCKTAG tag = task_lock_tag(id);
  return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

// Whoever counts the leases of a queue with a limit on them.
inline void lock_places(int queue_id) {
  LOCKTAG tag;
  SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 1, static_cast<uint32>(queue_id), places_lock_class);
  (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

}  // namespace underway
