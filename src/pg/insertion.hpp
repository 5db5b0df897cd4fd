// One row into a table of ours without a statement, which would cost as much again to start as the
// row itself does: as the server's own replication inserts (execReplication.c), with constraints,
// indexes, defaults and triggers. Runs in: any backend, inside a transaction and inside call(), for
// whoever has checked the right already: none is asked for. Invariant: what is known of the table
// (where the columns are, and the defaults of the others, which are constants) is read again when
// the server says that the table has changed.
#pragma once

#include "statement.hpp"

namespace underway::pg {

class insertion {
 public:
  static constexpr int max_columns = 16;
  template <class... Names>
  constexpr explicit insertion(const char* table, Names... columns) noexcept
      : table_(table), columns_{columns...}, count_(sizeof...(columns)) {}

  // One for each of the columns. The row is visible to whatever runs next.
  void run(const value* values);

 private:
  void watch();
  void read(Relation table);
  const char* table_;
  const char* columns_[max_columns];
  int count_;
  bool known_ = false;
  Oid oid_ = InvalidOid;
  MemoryContext memory_ = nullptr;
  int places_[max_columns] = {};
  value* row_ = nullptr;  // the defaults, by attribute
};

}  // namespace underway::pg
