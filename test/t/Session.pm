# One psql that stays: statements one after the other over one connection, and what became of each.
# A connection that is lost is no error here: tests kill servers and clients.
package Session;

use strict;
use warnings;

use IPC::Open2;

# Writing to a psql that is gone is an error to be looked at, not the end of the test.
$SIG{PIPE} = 'IGNORE';

# To a node, or without one as PGHOST and friends say; options: dbname, user.
sub new
{
    my ($class, $node, %options) = @_;
    my $connstr = $node ? $node->connstr($options{dbname} // 'postgres') : '';
    $connstr .= " user=$options{user}" if $options{user};
    my $self = bless { connstr => $connstr, psql => $node ? $node->installed_command('psql') : 'psql' }, $class;
    $self->connect;
    return $self;
}

# True when there is a connection now.
sub connect
{
    my ($self) = @_;
    $self->close;
    # Errors come in the order of the output, as SQLSTATEs and messages.
    $self->{pid} = open2($self->{out}, $self->{in}, 'sh', '-c', 'exec "$0" -XAtq -F "|" -v VERBOSITY=verbose -d "$1" 2>&1',
        $self->{psql}, $self->{connstr});
    return defined $self->query('SELECT 1');
}

# Sends without waiting: receive() then has the answer.
sub send
{
    my ($self, $sql) = @_;
    return undef unless $self->{in};
    $self->{mark} = 'end-' . ++$self->{count};
    return 1
      if print { $self->{in} } "\\set ERROR false\n$sql\n;\n\\echo $self->{mark} :ERROR :SQLSTATE\n"
      and $self->{in}->flush;
    $self->close;    # psql is gone, and would not come back
    return undef;
}

# What it printed, in lines; undef: the connection was lost. state() is the SQLSTATE of the last statement.
sub receive
{
    my ($self) = @_;
    my @lines;
    while ($self->{out} and defined(my $line = readline $self->{out}))
    {
        chomp $line;
        if ($line =~ /^\Q$self->{mark}\E (\S+) (\S*)$/)
        {
            last if $2 eq '';    # the connection is lost, and psql would find out with the next statement
            $self->{state} = $1 eq 'true' ? $2 : '00000';
            $self->{answer} = join "\n", @lines;
            return $self->{answer};
        }
        push @lines, $line;
    }
    $self->{state} = 'lost';
    $self->{answer} = join "\n", @lines;
    $self->close;
    return undef;
}

sub query
{
    my ($self, $sql) = @_;
    return $self->send($sql) ? $self->receive : do { $self->{state} = 'lost'; $self->{answer} = ''; undef };
}

sub state { return $_[0]{state} }
sub answer { return $_[0]{answer} }
sub connected { return defined $_[0]{in} }

# The answer, which must not be an error.
sub value
{
    my ($self, $sql) = @_;
    my $answer = $self->query($sql);
    die "$sql: $self->{state}: " . ($self->{answer} // '') unless $self->{state} eq '00000';
    return $answer;
}

# The server's processes of one kind: launcher, coordinator or worker.
sub pids
{
    my ($self, $kind) = @_;
    return split /\n/, $self->query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'underway $kind' ORDER BY pid") // '';
}

# Until the SQL condition is true; a lost connection is made anew. Looks often, since tests measure nothing by it but wait a lot.
sub until
{
    my ($self, $condition, $seconds) = @_;
    my $end = time + ($seconds // 120);

    while (time < $end)
    {
        my $answer = $self->connected ? $self->query("SELECT ($condition)") : $self->connect && next;
        return 1 if defined $answer and $answer eq 't';
        select undef, undef, undef, 0.02;
    }
    return 0;
}

sub close
{
    my ($self) = @_;
    return unless $self->{pid};
    # The status of the test is its own.
    local $?;
    CORE::close $self->{in} if $self->{in};
    CORE::close $self->{out} if $self->{out};
    # Another process may have inherited its input, and so keep it open.
    kill 'TERM', $self->{pid};
    waitpid $self->{pid}, 0;
    delete @{$self}{qw(pid in out)};
}

# In a process that was forked off: the connection is the other's.
sub forget
{
    my ($self) = @_;
    CORE::close $self->{in} if $self->{in};
    CORE::close $self->{out} if $self->{out};
    delete @{$self}{qw(pid in out)};
}

sub DESTROY { $_[0]->close }

1;
