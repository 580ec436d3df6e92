-- Records a migration, in its own transaction.
INSERT INTO pgaa.migration (number, name) VALUES ($1, $2)
