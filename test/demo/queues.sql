SELECT underway.create_queue('unreadable');
SELECT underway.create_queue('copyright',
    handler     => 'demo.read_copyright',
    retry       => underway.retry_policy(max_attempts => 3, initial_interval => '0.5 s', jitter => 0),
    dead_letter => 'unreadable');
