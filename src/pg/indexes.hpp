// How the generated columns and the index entries of a table's rows are made, as the executor finds
// it out for each statement (execIndexing.c): kept until the table changes, since to copy and
// prepare the predicates takes longer than to write the row. Runs in: any backend, inside pg::call.
// Error discipline: server code, may raise. Invariant: a set stays as it is for as long as the
// table is open.
#pragma once

#include "server.hpp"

namespace underway::pg {

struct index_set {
  static constexpr int most = 16;
  static constexpr int most_generated = 4;
  struct generated_column {
    AttrNumber column;
    ExprState* value;
  };
  struct one {
    Oid oid;
    bool unique;
    IndexInfo* info;
    ExprState* predicate;  // null: it has all rows
  };
  Oid table;
  uint64 version;
  uint64 used;
  MemoryContext memory;
  EState* state;
  int generated_count;
  generated_column generated[most_generated];
  int count;
  one all[most];
};

index_set* indexes_of(Relation table);

}  // namespace underway::pg
