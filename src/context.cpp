#include "context.hpp"

#include "entry.hpp"

namespace underway {

const claimed_task* current_task = nullptr;
worker_slot* my_slot = nullptr;
database_entry* my_database = nullptr;

UNDERWAY_ENTRY(underway_task_id) {
  if (current_task == nullptr) {
    PG_RETURN_NULL();
  }
  return pg::call([] {
    auto id = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
    *id = current_task->id;
    return UUIDPGetDatum(id);
  });
}

UNDERWAY_ENTRY(underway_attempt) {
  if (current_task == nullptr) {
    PG_RETURN_NULL();
  }
  PG_RETURN_INT32(current_task->attempt);
}

UNDERWAY_ENTRY(underway_last_attempt) {
  if (current_task == nullptr) {
    PG_RETURN_NULL();
  }
  PG_RETURN_BOOL(current_task->last_attempt);
}

UNDERWAY_ENTRY(underway_headers) {
  if (current_task == nullptr || current_task->headers == nullptr) {
    PG_RETURN_NULL();
  }
  return pg::call([] {
    const Size size = VARSIZE(current_task->headers);
    auto copy = static_cast<Jsonb*>(palloc(size));
    memcpy(static_cast<void*>(copy), current_task->headers, size);
    return JsonbPGetDatum(copy);
  });
}

UNDERWAY_ENTRY(underway_progress) {
  if (PG_ARGISNULL(0)) {
    PG_RETURN_NULL();
  }
  return pg::call([fcinfo] {
    Jsonb* progress = PG_GETARG_JSONB_P(0);
    if (my_slot != nullptr && current_task != nullptr) {
      const char* text =
          JsonbToCString(nullptr, &progress->root, static_cast<int>(VARSIZE(progress)));
      if (strlen(text) > worker_slot::most_progress) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("progress must have at most %zu bytes as text, not %zu",
                               worker_slot::most_progress, strlen(text)),
                        errhint("A large result belongs into the output or into a table.")));
      }
      SpinLockAcquire(&my_slot->mutex);
      strlcpy(my_slot->progress, text, worker_slot::progress_size);
      SpinLockRelease(&my_slot->mutex);
    }
    return JsonbPGetDatum(progress);
  });
}

}  // namespace underway
