#include "retry.hpp"

#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"

namespace underway {

namespace {

pg::statement fail(
    "SELECT underway_internal.fail_task($1, $2, true, NULL, 'error', NULL, $3, $4, $5, $6, $7, $8)",
    UUIDOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID);

constexpr int longest_text = 16 * 1024;

pg::value clipped(const char* text) {
  if (text == nullptr) {
    return {};
  }
  const int length = static_cast<int>(strlen(text));
  return pg::of_text(length <= longest_text ? text
                                            : pnstrdup(text, static_cast<Size>(pg_mbcliplen(
                                                                 text, length, longest_text))));
}

}  // namespace

const char* fail_attempt(const claimed_task& task, const pg::error& error, const char* notices,
                         MemoryContext memory) {
  const ErrorData& e = error.data();
  const char* state = nullptr;
  pg::as_owner owner(true);
  pg::value args[8];
  args[0] = pg::of(&task.id);
  args[1] = pg::of(task.attempt);
  pg::call([&] {
    args[2] = pg::of_text(unpack_sql_state(e.sqlerrcode));
    args[3] = clipped(e.message != nullptr ? e.message : "unknown error");
    args[4] = clipped(e.detail);
    args[5] = clipped(e.hint);
    args[6] = clipped(e.context);
    args[7] = clipped(notices);
  });
  fail.run(args, [&](const pg::row& r) { state = r.text(1, memory); });
  return state;
}

void record_failure(const claimed_task& task, const pg::error& error, const char* notices) {
  pg::transaction tx(pg::transaction::kind::ours);
  (void)fail_attempt(task, error, notices, CurrentMemoryContext);
  if (task.crashes > 0) {
    pg::call([] { ForceSyncCommit(); });  // as the end of one that succeeds (execute.cpp)
  }
  tx.commit();
}

bool is_transient(int sqlstate) noexcept {
  return sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE || sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED;
}

}  // namespace underway
