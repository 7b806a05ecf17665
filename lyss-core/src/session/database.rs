pub struct DatabaseSessionStore;
