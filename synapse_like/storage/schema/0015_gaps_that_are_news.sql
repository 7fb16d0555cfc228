-- What is missing of the news of rooms is looked for every few seconds; nearly always there is none.
CREATE INDEX gaps_news ON gaps (room_nid) WHERE is_news = 1;
