// The open table of an archive: where the row of a task, or of a run, goes that has succeeded.
// Runs in: workers, and clients that complete; as the extension's owner, inside pg::call. Error
// discipline: server code, may raise. Invariant: which table is open is found anew when the ring
// has moved, which is known from the commit on that moves it (underway_ring_moved).
#pragma once

#include "pg/table.hpp"

namespace underway {

class archive_table {
 public:
  // name: its tables are called so, and by the number of their slot.
  constexpr explicit archive_table(const char* name) noexcept : name_(name) {}
  // rows: the table that they come from, open. several: more than one will come, which are written
  // by the page.
  void open(const pg::table& rows, bool several);
  // A copy of the row that was found there, as it has ended.
  void put(const pg::table& row, Jsonb* output, const char* notices, TimestampTz now);
  void close();

 private:
  void find_sources(TupleDesc rows);
  pg::table archive_;
  const char* name_;
  pg::knowledge rows_known_;
  pg::knowledge archive_known_;
  pg::knowledge ring_known_;
  bool several_ = false;
  int slot_ = 0;
  Oid open_ = InvalidOid;
  AttrNumber sources_[pg::columns::most] = {};
};

extern archive_table task_archive;
extern archive_table run_archive;

}  // namespace underway
