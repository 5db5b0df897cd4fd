// One row into a table of ours without a statement, which would cost as much again to start as the
// row itself does. Runs in: any backend, inside a transaction and inside call(), for whoever has
// checked the right already: none is asked for. Error discipline: server code, may raise.
// Invariant: columns that are not given get their defaults, which are constants.
#pragma once

#include "statement.hpp"
#include "table.hpp"

namespace underway::pg {

class insertion {
 public:
  template <class... Names>
  constexpr explicit insertion(const char* table, Names... names) noexcept
      : relation_(table), columns_(names...) {}

  // One for each of the columns. The row is visible to whatever runs next.
  void run(const value* values);

 private:
  void read(Relation table);
  relation relation_;
  columns columns_;
  knowledge defaults_found_;
  MemoryContext memory_ = nullptr;
  value* row_ = nullptr;  // the defaults, by attribute
};

}  // namespace underway::pg
