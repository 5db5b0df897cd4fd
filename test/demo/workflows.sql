SELECT underway.create_workflow('review', ARRAY[
    underway.step('read',      'demo.split'),
    underway.map ('detect',    'demo.detect', over => 'demo.paragraphs'),
    underway.step('summarise', 'demo.summarise'),
    underway.wait('ask',       signal => 'licence', timeout => '30 days', run_if => '$steps.summarise.known == false'),
    underway.step('keep',      'demo.keep',
        input => '{"package": "$run.package", "found": "$steps.summarise.licences", "answer": "$steps.ask"}')],
    retry => underway.retry_policy(max_attempts => 2, initial_interval => '0.5 s'));
