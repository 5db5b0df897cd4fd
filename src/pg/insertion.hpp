// Rows into a table of ours without a statement, which for one would cost as much again to start as
// the row itself does; many are written by the page. Runs in: any backend, inside a transaction and
// inside call(), for whoever has checked the right already: none is asked for. Error discipline:
// server code, may raise. Invariant: columns that are not given get their defaults, which are
// constants.
#pragma once

#include "statement.hpp"
#include "table.hpp"

namespace underway::pg {

class insertion {
 public:
  template <class... Names>
  constexpr explicit insertion(const char* table, Names... names) noexcept
      : relation_(table), columns_(names...) {}

  // One for each of the columns. The row is visible to whatever runs next; returns where it stands.
  place run(const value* values);
  // The same for rows 0 to n - 1: values_of(row) may say null, and that one is left out.
  template <class F> void run_many(int n, F&& values_of) {
    table t;
    begin(&t);
    for (int row = 0; row < n; row++) {
      CHECK_FOR_INTERRUPTS();
      const value* values = values_of(row);
      if (values != nullptr) {
        set(&t, values);
        t.insert_later();
      }
    }
    t.insert_rest();
    end(&t);
  }

 private:
  void begin(table* t);
  void set(table* t, const value* values);
  void end(table* t);
  void read(Relation table);
  relation relation_;
  columns columns_;
  knowledge defaults_found_;
  MemoryContext memory_ = nullptr;
  value* row_ = nullptr;  // the defaults, by attribute
};

}  // namespace underway::pg
