# What README.md says is so: its examples run, in order, and show what it shows; its tables name every function with its
# signature, every view and every setting with its default.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Examples;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = slurp_file('README.md');

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init(extra => ['--username=postgres']);
$ENV{PGUSER} = 'postgres';
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');

run_examples($node->connstr('shop'), $readme);

# name(argument type, argument type = default, ...); a default of null is written as a question mark.
my $functions = $node->safe_psql('shop', <<'END');
SELECT p.proname || '(' || coalesce(string_agg(
        concat_ws(' ', CASE p.proargmodes[a.n] WHEN 'b' THEN 'INOUT' END, a.name, format_type(t.type, NULL))
        || CASE WHEN d.value IS NULL THEN ''
            WHEN d.value LIKE 'NULL%' THEN '?'
            ELSE ' = ' || d.value END, ', ' ORDER BY a.n), '') || ')'
FROM pg_proc p
LEFT JOIN LATERAL unnest(p.proargnames) WITH ORDINALITY a(name, n)
    ON coalesce(p.proargmodes[a.n], 'i') IN ('i', 'b') AND a.n <= coalesce(cardinality(p.proallargtypes), p.pronargs)
LEFT JOIN LATERAL (SELECT coalesce(p.proallargtypes[a.n], p.proargtypes[a.n - 1]) AS type) t ON true
LEFT JOIN LATERAL (SELECT regexp_replace(pg_get_function_arg_default(p.oid, a.n::int), '::[a-z ]+(\[\])?$', '') AS value) d ON true
WHERE p.pronamespace = 'underway'::regnamespace
GROUP BY p.oid, p.proname ORDER BY p.proname
END
for my $signature (split /\n/, $functions) {
    my $written = $signature =~ s/timestamp with time zone/timestamptz/gr =~ s/double precision/float8/gr =~ s/boolean/bool/gr
        =~ s/integer/int/gr;
    ok($readme =~ /`\Q$written\E`/, "the reference has $written");
}

for my $view (split /\n/, $node->safe_psql('shop',
    "SELECT relname FROM pg_class WHERE relnamespace = 'underway'::regnamespace AND relkind = 'v'")) {
    ok($readme =~ /^\| `underway\.$view` \|/m, "the reference has the view $view");
}

# As SHOW writes it: in the largest unit that divides the value.
sub shown_as {
    my ($value, $unit) = @_;
    my @units = ([ms => 1000], [s => 60], [min => 60], [h => 24], ['d']);
    shift @units while $unit && $units[0][0] ne $unit;
    while ($unit && $units[0][1] && $value % $units[0][1] == 0) {
        $value /= $units[0][1];
        $unit = $units[1][0];
        shift @units;
    }
    return $value . $unit;
}

for my $row (split /\n/, $node->safe_psql('shop',
    "SELECT substr(name, 10), boot_val, unit FROM pg_settings WHERE name LIKE 'underway.%' ORDER BY name")) {
    my ($name, $value, $unit) = split /\|/, $row, -1;
    my $written = "| `$name` | " . shown_as($value, $unit) . ' |';
    ok($readme =~ /^\Q$written\E/m, "the table of settings has $written");
}

done_testing();
